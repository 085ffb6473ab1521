"""What a task asks for: the payload, read once, every bad field named."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.data_pipeline import uris
from openmcp_chain.executors.data_pipeline.uris import Uri
from openmcp_chain.executors.transform.job import Format

FIELDS = ("input_uri", "output_uri", "input_format", "output_format", "sql")
EXTENSIONS: Mapping[str, Format] = {
    "json": Format.JSON,
    "ndjson": Format.NDJSON,
    "jsonl": Format.NDJSON,
    "csv": Format.CSV,
    "parquet": Format.PARQUET,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A payload, checked."""

    input: Uri
    output: Uri | None
    """None: beside the input, where nothing else is."""
    input_format: Format
    output_format: Format
    sql: str | None

    def default_outputs(self, task_id: str) -> tuple[Uri, Uri]:
        """Where the artifact goes if the payload does not say: the second, if something else is at the first.

        `input.json` gives `output.json`, and any other `name.csv` gives `name.output.csv`.
        """
        stem = posixpath.splitext(posixpath.basename(self.input.path))[0]
        name = "output" if stem == "input" else f"{stem}.output"
        return (
            self.input.beside(f"{name}.{self.output_format}"),
            self.input.beside(f"{name}-{task_id}.{self.output_format}"),
        )


def read(payload: Mapping[str, Any]) -> Order:
    """Reads the payload.

    Raises:
        Refused: PAYLOAD_INVALID, with every bad field.
    """
    faults = [f"payload.{name}: is not a field of data_pipeline" for name in payload if name not in FIELDS]
    texts: dict[str, str] = {}
    for name in FIELDS:
        value = payload.get(name)
        if isinstance(value, str) and value:
            texts[name] = value
        elif value is not None:
            faults.append(f"payload.{name}: must be {'text' if value != '' else 'more than empty text'}")
        elif name == "input_uri":
            faults.append("payload.input_uri: is needed")

    found = {name: _uri(name, texts, faults) for name in ("input_uri", "output_uri")}
    source, target = found["input_uri"], found["output_uri"]
    if target and target.scheme not in ("file", "s3"):
        faults.append("payload.output_uri: only file:// and s3:// can be written")
    if source and source.scheme not in ("file", "s3") and "output_uri" not in texts:
        faults.append("payload.output_uri: is needed, since nothing can be written beside an http(s) input")
    if (
        source
        and target
        and (source.scheme, source.authority, source.path)
        == (
            target.scheme,
            target.authority,
            target.path,
        )
    ):
        faults.append("payload.output_uri: must not be the input itself")
    input_format = _format("input_format", texts, source, faults)
    # Without an output_uri there is no extension to go by, so the format stays.
    output_format = (
        _format("output_format", texts, target, faults) if target or "output_format" in texts else input_format
    )
    if faults or not source or not input_format or not output_format:
        raise Refused(Code.PAYLOAD_INVALID, "; ".join(faults))
    return Order(
        input=source, output=target, input_format=input_format, output_format=output_format, sql=texts.get("sql")
    )


def _uri(name: str, texts: Mapping[str, str], faults: list[str]) -> Uri | None:
    if name not in texts:
        return None
    try:
        return uris.parse(texts[name])
    except ValueError as error:
        faults.append(f"payload.{name}: {error}")
        return None


def _format(name: str, texts: Mapping[str, str], uri: Uri | None, faults: list[str]) -> Format | None:
    offer = ", ".join(Format)
    if name in texts:
        if texts[name] in list(Format):
            return Format(texts[name])
        faults.append(f"payload.{name}: must be one of {offer}")
        return None
    if uri is None:
        return None
    if uri.extension not in EXTENSIONS:
        faults.append(f"payload.{name}: is needed ({offer}), since the URI's extension names none")
    return EXTENSIONS.get(uri.extension)
