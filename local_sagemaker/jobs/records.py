"""Records of a batch transform: split, filtered, batched, joined with their answers and put together again.

As in the Developer Guide, "Associate Prediction Results with Input Records", with its subset of JSONPath.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

CSV, JSON, JSON_LINES = "text/csv", "application/json", "application/jsonlines"
STEP = re.compile(
    r"""\.(?P<name>[^.\[\]*'"()?@]+)
      | (?P<all>\.\*|\.?\[\*\])
      | \.?\[(?P<names>'[^']*'(?:\s*,\s*'[^']*')*)\]
      | \.?\[(?P<numbers>-?\d+(?:\s*,\s*-?\d+)*)\]
      | \.?\[(?P<start>-?\d+)?:(?P<end>-?\d+)?\]""",
    re.VERBOSE,
)

# From a value to what the step selects of it; raises LookupError or TypeError where it has no such thing.
Step = Callable[[Any], list[Any]]


class Path:
    """A JSONPath expression of the subset.

    >>> Path("$['id','SageMakerOutput']").select({"id": 7, "x": 1, "SageMakerOutput": 0.5})
    {'id': 7, 'SageMakerOutput': 0.5}
    >>> Path("$[1:]").select([1, 2, 3])
    [2, 3]
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError."""
        self.text = text or "$"
        self._steps: list[Step] = []
        self._many = False
        if not self.text.startswith("$"):
            raise ValueError(f"the JSONPath {text} does not begin with $")
        position = 1
        while position < len(self.text):
            found = STEP.match(self.text, position)
            if not found:
                raise ValueError(
                    f"the JSONPath {text} has something other than .NAME, *, ['NAME','NAME'], [NUMBER,NUMBER] and "
                    f"[START:END] at {self.text[position:]}"
                )
            self._steps.append(self._step(found))
            position = found.end()

    @property
    def is_all(self) -> bool:
        return not self._steps

    def select(self, value: Any) -> Any:
        """One value, or a list where the path may lead to several. Raises ValueError where it leads nowhere."""
        found = [value]
        try:
            for step in self._steps:
                found = [item for outer in found for item in step(outer)]
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"the JSONPath {self.text} leads nowhere in {json.dumps(value)[:200]}"
            ) from error
        return found if self._many else found[0]

    def _step(self, found: re.Match[str]) -> Step:
        if name := found["name"]:
            return lambda value: [_member(value, name)]
        if names := found["names"]:
            wanted = re.findall(r"'([^']*)'", names)
            if len(wanted) == 1:
                return lambda value: [_member(value, wanted[0])]
            return lambda value: [{name: _member(value, name) for name in wanted}]
        if numbers := found["numbers"]:
            indices = [int(number) for number in numbers.split(",")]
            self._many |= len(indices) > 1
            return lambda value: [_elements(value)[index] for index in indices]
        self._many = True
        if found["all"]:
            return lambda value: list(value.values()) if isinstance(value, dict) else list(_elements(value))
        section = slice(*(int(end) if end else None for end in (found["start"], found["end"])))
        return lambda value: list(_elements(value)[section])


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError
    return value[name]


def _elements(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def split(content: bytes, split_type: str) -> list[bytes]:
    """The records of an object: its lines that are not blank, or the whole."""
    return [line for line in content.splitlines() if line.strip()] if split_type == "Line" else [content]


def batches(records: Sequence[bytes], strategy: str, limit: int) -> Iterator[slice]:
    """Runs of records, each to go into one request of at most `limit` bytes; 0 is no limit.

    Raises ValueError for a record that is larger than that.
    """
    begin, size = 0, 0
    for number, record in enumerate(records):
        if limit and len(record) > limit:
            raise ValueError(f"record {number + 1} has {len(record)} bytes, over MaxPayloadInMB")
        # A line feed stands between two.
        size += len(record) + 1
        if number > begin and (strategy == "SingleRecord" or (limit and size - 1 > limit)):
            yield slice(begin, number)
            begin, size = number, len(record) + 1
    if records:
        yield slice(begin, len(records))


def assemble(parts: Iterable[bytes], assemble_with: str) -> bytes:
    """One object of the answers, each with a line feed at its end when it is assembled with `Line`."""
    if assemble_with != "Line":
        return b"".join(parts)
    return b"".join(part if part.endswith(b"\n") else part + b"\n" for part in parts)


@dataclass(frozen=True)
class DataProcessing:
    """What is done to records before and after the model has seen them."""

    input_filter: Path
    output_filter: Path
    joins: bool
    content_type: str

    @property
    def changes_output(self) -> bool:
        return self.joins or not self.output_filter.is_all

    def before(self, record: bytes) -> bytes:
        """What the model gets of a record. Raises ValueError."""
        if self.input_filter.is_all:
            return record
        return self._encode(self.input_filter.select(self._decode(record)))

    def after(self, records: Sequence[bytes], answer: bytes) -> list[bytes]:
        """What is written for the records of one request. Raises ValueError."""
        if not self.changes_output:
            return [answer]
        answers = [answer] if len(records) == 1 else split(answer, "Line")
        if len(answers) != len(records):
            raise ValueError(
                f"the model answered {len(records)} records with {len(answers)} lines, so they cannot be joined; "
                "BatchStrategy SingleRecord gives each record an answer of its own"
            )
        return [self._finished(record, given) for record, given in zip(records, answers, strict=True)]

    def _finished(self, record: bytes, answer: bytes) -> bytes:
        output = self._decode(answer)
        if self.joins:
            whole = self._decode(record)
            if self.content_type == CSV:
                output = [*whole, *output]
            elif isinstance(whole, dict):
                output = {**whole, "SageMakerOutput": output}
            else:
                output = {"SageMakerInput": whole, "SageMakerOutput": output}
        return self._encode(self.output_filter.select(output))

    def _decode(self, text: bytes) -> Any:
        if self.content_type != CSV:
            return json.loads(text)
        rows = list(csv.reader(io.StringIO(text.decode(), newline="")))
        if len(rows) != 1:
            raise ValueError(f"{text[:200].decode()!r} is not one row of CSV")
        return rows[0]

    def _encode(self, value: Any) -> bytes:
        if self.content_type != CSV:
            return json.dumps(value).encode()
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="").writerow(value if isinstance(value, list) else [value])
        return buffer.getvalue().encode()


def data_processing(request: dict[str, Any]) -> DataProcessing:
    """Of a CreateTransformJob request. Raises ValueError for what cannot be done."""
    given = request.get("DataProcessing", {})
    source, target = request["TransformInput"], request["TransformOutput"]
    processing = DataProcessing(
        Path(given.get("InputFilter", "$")),
        Path(given.get("OutputFilter", "$")),
        given.get("JoinSource") == "Input",
        source.get("ContentType", ""),
    )
    types = {CSV, JSON, JSON_LINES}
    if processing.changes_output or not processing.input_filter.is_all:
        if processing.content_type not in types:
            raise ValueError(
                f"DataProcessing needs a TransformInput.ContentType of {', '.join(sorted(types))}"
            )
        if processing.content_type == CSV and source.get("SplitType") != "Line":
            raise ValueError("DataProcessing of text/csv needs the TransformInput.SplitType Line")
    if processing.changes_output:
        if target.get("Accept") != processing.content_type:
            raise ValueError(
                f"DataProcessing of answers needs TransformOutput.Accept to be {processing.content_type} too"
            )
        if source.get("SplitType") == "Line" and target.get("AssembleWith") != "Line":
            raise ValueError("DataProcessing of lines needs the TransformOutput.AssembleWith Line")
    return processing
