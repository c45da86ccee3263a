"""The model card of a report as assess.py writes it, cut down to what the card reads."""

from typing import Any

from report.model_card import card, model_card

ROW = {"precision": 0.9, "recall": 0.9, "recall_interval": [0.8, 0.95], "f1": 0.9}
REPORT: dict[str, Any] = {
    "assess": None,
    "dataset": {"version": "v1", "source": "s3://data/birds"},
    "model": {
        "version": "job-1",
        "arch": "resnet18",
        "preprocessing": {"image_size": 64},
        "hyperparameters": {"seed": 3},
    },
    "run": {"dag_id": "retrain_birds", "run_id": "manual__1", "pipeline": "birds"},
    "code": {"hash": "abc", "git_revision": "f00"},
    "champion": None,
    "verdict": {"decision": "promote"},
    "assessment": {"at": "2026-11-28T08:00:00+00:00"},
    "metrics": {
        "count": 120,
        "confidence": 0.95,
        "accuracy": 0.9,
        "accuracy_interval": [0.83, 0.94],
        "top_5_accuracy": None,
        "balanced_accuracy": 0.9,
        "macro_f1": 0.9,
        "log_loss": 0.3,
        "expected_calibration_error": 0.05,
        "baselines": {"majority": {"accuracy": 0.5}},
        "worst_classes": ["crow"],
        "per_class": [
            {**ROW, "class": "crow", "count": 100},
            {**ROW, "class": "<b>tit|mouse", "count": 20},
            {**ROW, "class": "owl", "count": 0, "recall_interval": None},
        ],
        "robustness": {"changes": [{"name": "blur", "strength": "3%", "drop": 0.2, "drop_interval": [0.1, 0.3]}]},
        "foreign": {
            "sure_from": 0.9,
            "kinds": [
                {"what": "noise", "sure": 0.1, "auroc": 0.9},
                {"what": "all pixels of one random colour", "sure": 0.25, "auroc": 0.6},
            ],
        },
        "latency": {"archive_bytes": 45e6, "p50_ms": 4.0, "p95_ms": 6.0, "device": "CPU with AVX2", "cpus": 2},
    },
}  # fmt: skip


def test_the_card_says_what_is_known_and_what_is_not() -> None:
    text = model_card(REPORT)
    for said in (
        "# Model card: birds",
        "one of 3 classes a picture shows (resnet18, 64 x 64 pixels",
        "The worst class is crow: 90.0% of its 100 test images are right (95% interval 80.0% to 95.0%).",
        "2 of 3 classes have fewer than 30 test images",
        "blur (3%) costs most: 20.0 percentage points of accuracy.",
        "(all pixels of one random colour) it answers 25.0% with 90% probability or more",
        "version v1 from s3://data/birds",
        "| accuracy | 90.00% | 83.00% to 94.00% |",
        "| owl | 0 | 90.0% | no images |",
        "45\u00a0MB; half of the single images within 4 ms",
        "Unknown: neither the data's nor the weights' was given",
        "Not given.",
        "code hash abc, dataset version v1, seed 3",
        "    git checkout f00\n    airflow dags trigger retrain_birds",
    ):
        assert said in text, said


def test_a_class_cannot_break_the_cards_tables() -> None:
    assert "| &lt;b>tit\\|mouse | 20 |" in model_card(REPORT)


def test_licence_and_contact_come_from_the_settings() -> None:
    found = card({**REPORT, "assess": {"licence": "CC BY 4.0", "contact": "birds@example.org"}})
    assert (found["licence"], found["contact"]) == ("CC BY 4.0", "birds@example.org")


def test_what_changes_nothing_is_no_limit() -> None:
    calm = {"changes": [{"name": "blur", "strength": "3%", "drop": 0.01, "drop_interval": [-0.01, 0.03]}]}
    limits = card({**REPORT, "metrics": {**REPORT["metrics"], "robustness": calm}})["limits"]
    assert not any("blur" in limit for limit in limits)
