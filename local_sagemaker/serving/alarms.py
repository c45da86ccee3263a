"""CloudWatch alarms, evaluated while an update watches them.

MiniStack's own evaluation looks at neither dimensions nor DatapointsToAlarm nor missing data, so its verdict (a
StateReason "Threshold Crossed: …") is not taken. A state that somebody has set with SetAlarmState is.
"""

import json
import operator
import time
from collections.abc import Callable, Sequence

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.aws.client import Aws

TARGET = "GraniteServiceVersion20100801"
EVALUATED = ("Threshold Crossed:", "Insufficient Data:", "Unchecked:")
"""How the reasons of evaluations begin, AWS's, MiniStack's and those of this module."""
FURTHER_BACK = 2
"""Periods before the evaluation periods whose data is taken where newer data is missing."""
OPERATORS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to"),
    "GreaterThanThreshold": (operator.gt, "greater than"),
    "LessThanThreshold": (operator.lt, "less than"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to"),
}
# What can only rise while a period lasts: over the threshold already, it stays so.
RISING = {"Sum", "Maximum", "SampleCount"}


class Alarms:
    """The alarms of the local CloudWatch in one region."""

    def __init__(self, aws: Aws, region: str) -> None:
        self._aws = aws
        self._region = region

    def check(self, names: Sequence[str]) -> None:
        """Raises ApiError when one is not there or cannot be evaluated here, and AwsError."""
        found = self._describe(names)
        for name in names:
            if name not in found:
                raise invalid(
                    f"The metric alarm {name} of AutoRollbackConfiguration does not exist in CloudWatch; create it"
                )
            alarm = found[name]
            if not alarm.get("MetricName") or alarm.get("ComparisonOperator") not in OPERATORS:
                raise invalid(
                    f"local_sagemaker evaluates alarms on one metric with a static threshold; {name} is another"
                )

    def tripped(self, names: Sequence[str], since: float) -> str | None:
        """Evaluate alarms; the sentence about the first in ALARM, also one that was set so since then.

        An alarm that has been deleted meanwhile counts as tripped: what it was to watch is not watched.
        Raises AwsError.
        """
        if not names:
            return None
        found = self._describe(names)
        for name in names:
            if name not in found:
                return f"The alarm {name} has been deleted"
            alarm = found[name]
            reason = self._set_by_somebody(alarm, since)
            if reason is None:
                state, reason = self._evaluate(alarm)
                if state != alarm["StateValue"]:
                    self._call("SetAlarmState", AlarmName=name, StateValue=state, StateReason=reason)
                if state != "ALARM":
                    continue
            return f"The alarm {name} is in ALARM: {reason}"
        return None

    def _describe(self, names: Sequence[str]) -> dict[str, Document]:
        answer = self._call("DescribeAlarms", AlarmNames=list(names), MaxRecords=100)
        return {alarm["AlarmName"]: alarm for alarm in answer["MetricAlarms"]}

    def _set_by_somebody(self, alarm: Document, since: float) -> str | None:
        """The reason with which ALARM was set by hand and still is, or was since a moment; None when it was not."""
        if alarm["StateValue"] == "ALARM" and not _is_evaluated(alarm["StateReason"]):
            return str(alarm["StateReason"])
        # MiniStack may have evaluated it again since.
        items = self._call(
            "DescribeAlarmHistory",
            AlarmName=alarm["AlarmName"],
            HistoryItemType="StateUpdate",
            StartDate=int(since),
            MaxRecords=20,
        )["AlarmHistoryItems"]
        states = [json.loads(item["HistoryData"]).get("newState", {}) for item in items]
        for state in states:
            if state.get("stateValue") == "ALARM" and not _is_evaluated(state.get("stateReason", "")):
                return str(state["stateReason"])
        return None

    def _evaluate(self, alarm: Document) -> tuple[str, str]:
        """State and reason from the metric's data."""
        count, period = alarm["EvaluationPeriods"], alarm["Period"]
        now = time.time()
        running = now // period * period
        statistic = alarm.get("ExtendedStatistic") or alarm["Statistic"]
        answer = self._call(
            "GetMetricData",
            StartTime=running - (count + FURTHER_BACK) * period,
            EndTime=now + 1,
            MetricDataQueries=[
                {
                    "Id": "m",
                    "MetricStat": {
                        "Metric": {key: alarm[key] for key in ("Namespace", "MetricName", "Dimensions")},
                        "Period": period,
                        "Stat": statistic,
                    },
                }
            ],
        )["MetricDataResults"][0]
        compare, words = OPERATORS[alarm["ComparisonOperator"]]
        threshold = alarm["Threshold"]
        values = answer["Values"]
        if values and answer["Timestamps"][-1] >= running:
            early = statistic in RISING and compare in (operator.gt, operator.ge)
            if not (early and compare(values[-1], threshold)):
                values = values[:-1]
        breaching = [compare(value, threshold) for value in values]
        wanted = alarm.get("DatapointsToAlarm") or count
        state = verdict(breaching, wanted, count, alarm.get("TreatMissingData", "missing"))
        if state is None:
            return alarm["StateValue"], alarm["StateReason"]
        if state == "INSUFFICIENT_DATA":
            return state, f"Insufficient Data: no datapoints were received for {count} periods."
        shown = ", ".join(f"{value:g}" for value in values[-count:])
        return state, (
            f"Threshold Crossed: {sum(breaching[-count:])} out of the last {count} datapoints [{shown}] were {words} "
            f"the threshold ({threshold:g}), {wanted} make an alarm."
        )

    def _call(self, operation: str, **members: object) -> Document:
        answer: Document = self._aws.call(f"{TARGET}.{operation}", region=self._region, **members)
        return answer


def verdict(breaching: Sequence[bool], wanted: int, count: int, missing: str) -> str | None:
    """An alarm's state by AWS's rules for missing data; None where the state stays as it is.

    `breaching` has the datapoints of the evaluation range that exist, oldest first; `wanted` of the last `count` make
    an alarm. https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html

    >>> verdict([False, True, True], 2, 3, "missing"), verdict([], 1, 1, "notBreaching")
    ('ALARM', 'OK')
    """
    lacking = max(0, count - len(breaching))
    over = sum(breaching[-count:])
    if over >= wanted or (missing == "breaching" and over + lacking >= wanted):
        return "ALARM"
    if not lacking or missing in {"breaching", "notBreaching"} or not all(breaching):
        return "OK"
    # Of the datapoints that are there, none is within the threshold.
    if missing == "ignore":
        return None
    return "ALARM" if breaching else "INSUFFICIENT_DATA"


def _is_evaluated(reason: str) -> bool:
    return reason.startswith(EVALUATED)
