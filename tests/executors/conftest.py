"""A pipeline for each test."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import transforms
from support.pipelines import Bench
from support.transforms import Transform


@pytest.fixture
def make_bench(tmp_path: pathlib.Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(tmp_path, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.pipeline.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def transform(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Transform:
    """Reading, SQL and writing, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return transforms.run
