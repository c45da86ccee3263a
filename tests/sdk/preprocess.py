"""The entry point of the example's preprocessing image: a table becomes one to train with and one without labels."""

from pathlib import Path

import pandas as pd

FOLDER = Path("/opt/ml/processing")

table = pd.read_csv(FOLDER / "input/input.csv").sample(frac=1, random_state=1)
split = int(0.7 * len(table))
table[:split].to_csv(FOLDER / "output/train.csv", index=False, header=False)
table[split:].drop(columns="class").to_csv(FOLDER / "output/test.csv", index=False, header=False)
