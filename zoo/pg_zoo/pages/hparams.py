"""A report's numbers for TensorBoard's HParams: a session for each training, grouped by algorithm and environment."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from pg_zoo.results import statistics
from pg_zoo.results.findings import Findings
from pg_zoo.results.storage import as_name

_FILE = "events.out.tfevents.0.pg-zoo"  # of each folder; as TensorBoard recognises them
# Of single trainings, and of all seeds together.
METRICS = ("score", "normalised", "seconds", "steps_per_second", "mean", "mean_low", "mean_high")


def hparams(findings: Findings) -> dict[str, bytes]:
    """Event files by path, below `tensorboard/`.

    Args:
        findings: The conclusions from results.
    """
    details = findings.results.details
    all_values = [_hyperparameters(detail) for detail in details]
    kinds = {name: _kind(name, all_values) for name in sorted({name for values in all_values for name in values})}
    for values in all_values:
        texts = {name: str(value) for name, value in values.items() if kinds[name] == api_pb2.DATA_TYPE_STRING}
        values.update(texts)
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"report/{name}")) for name in METRICS]
    known = [api_pb2.HParamInfo(name=name, type=kind) for name, kind in kinds.items()]
    experiment = api_pb2.Experiment(hparam_infos=known, metric_infos=metrics)
    about = _for_hparams(metadata.EXPERIMENT_TAG, experiment=experiment)
    files = {f"tensorboard/{_FILE}": _events([about], _seconds(details[0]))}
    for detail, values in zip(details, all_values, strict=True):
        group, begun = f"{detail['algo']} {detail['env']}", _seconds(detail)
        start = SessionStartInfo(group_name=group, start_time_secs=begun)
        for name, value in values.items():
            _set(start.hparams[name], value)
        end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=begun + detail["wall_time"])
        scalars = [_scalar(f"report/{name}", value) for name, value in _metrics(findings, detail).items()]
        written = [
            _for_hparams(metadata.SESSION_START_INFO_TAG, session_start_info=start),
            *scalars,
            _for_hparams(metadata.SESSION_END_INFO_TAG, session_end_info=end),
        ]
        path = f"{as_name(detail['algo'])}/{as_name(detail['env'])}/seed_{detail['seed']}"
        files[f"tensorboard/{path}/{_FILE}"] = _events(written, begun)
    return files


def _hyperparameters(detail: Mapping[str, Any]) -> dict[str, Any]:
    """All values of a cell, defaults included; TensorBoard knows numbers, truth values and texts."""
    found = {**(detail.get("defaults") or {}), **detail["hyperparams"]}
    plain = {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in found.items()}
    return {**plain, "algo": detail["algo"], "env": detail["env"]}


def _kind(name: str, all_values: list[dict[str, Any]]) -> Any:
    """TensorBoard's type of a hyperparameter."""
    values = [found[name] for found in all_values if name in found]
    if all(isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_BOOL
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_FLOAT64
    return api_pb2.DATA_TYPE_STRING


def _metrics(findings: Findings, detail: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a training, and the mean of all its seeds with the interval."""
    algo, env, score = detail["algo"], detail["env"], float(detail["score"])
    scale, mean = findings.scales[env], statistics.mean(findings.results.scores(algo, env).to_numpy(float))
    numbers = {
        "score": score,
        "normalised": float(scale.normalise(score)) if scale.one is not None else math.nan,
        "seconds": detail["wall_time"],
        "steps_per_second": math.nan if detail["steps_per_second"] is None else detail["steps_per_second"],
        "mean": float(mean.value),
        "mean_low": float(mean.low),
        "mean_high": float(mean.high),
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def _set(field: Any, value: bool | float | str) -> None:
    kind = "bool_value" if isinstance(value, bool) else "string_value" if isinstance(value, str) else "number_value"
    setattr(field, kind, value)


def _for_hparams(tag: str, **data: Any) -> Summary:
    about = metadata.create_summary_metadata(HParamsPluginData(**data))
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])


def _scalar(tag: str, value: float) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def _seconds(detail: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(detail["date"]).timestamp()


def _events(summaries: list[Summary], wall_time: float) -> bytes:
    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
    for one in summaries:
        writer.write(Event(wall_time=wall_time, summary=one).SerializeToString(deterministic=True))
    return file.getvalue()
