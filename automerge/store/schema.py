"""What the JSON in a study's store may be: types with limits, so that anyone's store is mere data.

A field says what it is by its type alone, and readers of the store may rely on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from automerge.objective import Aggregation, Direction

Name: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=200)
]
"""A name of a model, study or trial: never a path, so it may be used as a file name."""
Entry: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+\-]*$", max_length=200)
]
"""The name of a method or sampler in its table; those of extensions are `MODULE:NAME`, and a `+`
stands between transforms and a method."""
Short: TypeAlias = Annotated[str, StringConstraints(max_length=10_000)]
Long: TypeAlias = Annotated[str, StringConstraints(max_length=1_000_000)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=10**12)]
Seconds: TypeAlias = Annotated[float, Field(ge=0, le=10**11, allow_inf_nan=False)]
"""A time in Unix seconds, up to the year 5138, or a duration."""
Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""The digest of an evidence file."""
Knots: TypeAlias = Annotated[list[Number], Field(min_length=1, max_length=10_000)]
Knob: TypeAlias = bool | Number | Knots | dict[Short, Number | Knots] | Short
Params: TypeAlias = Annotated[dict[Short, bool | Number | Short], Field(max_length=100_000)]
Weights: TypeAlias = Annotated[
    list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1, max_length=1000)
]
Notes: TypeAlias = Annotated[dict[Short, Number], Field(max_length=10_000)]


Answers: TypeAlias = Annotated[list[Long], Field(min_length=1, max_length=1_000_000)]


class _Exact(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class StoredSlice(_Exact):
    """A slice of a recipe."""

    layers: dict[Name, Annotated[list[Count], Field(min_length=2, max_length=2)]]
    sources: dict[Name, dict[Short, Knob]] = {}
    parameters: dict[Short, Knob] = {}
    input_scale: Annotated[float, Field(gt=0)] = 1.0


class StoredMixture(_Exact):
    """A recipe's mixture of experts."""

    experts: Annotated[list[Name], Field(min_length=1, max_length=1000)]
    per_token: Annotated[int, Field(ge=1, le=1000)]
    gates: Name
    layers: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None


class StoredExperts(_Exact):
    """How a recipe makes experts fewer."""

    count: Annotated[int, Field(ge=1, le=10_000)]
    by: Name
    per_token: Annotated[int, Field(ge=1, le=10_000)] | None = None


class StoredRecipe(_Exact):
    """A recipe as `Recipe.plain` writes it."""

    method: Entry | Annotated[dict[Short, Entry], Field(min_length=1, max_length=1000)]
    sources: Annotated[dict[Name, dict[Short, Knob]], Field(min_length=1, max_length=1000)]
    base: Name | None = None
    parameters: dict[Short, Knob] = {}
    slices: Annotated[list[StoredSlice], Field(max_length=10_000)] = []
    mixture: StoredMixture | None = None
    experts: StoredExperts | None = None
    evidence: dict[Name, dict[Name, Digest]] = {}
    calibrate: dict[Literal["repair"], Annotated[float, Field(gt=0, le=1)]] = {}
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    dtype: Name | None = None
    tokenizer: Name | None = None
    chat_template: Name | None = None
    pad_to_multiple_of: Annotated[int, Field(ge=1, le=2**20)] | None = None


class StoredTimings(_Exact):
    """The duration of a measurement's phases, in seconds."""

    merge: Seconds
    forward: Seconds
    score: Seconds
    total: Seconds


class StoredEstimate(_Exact):
    """An estimate of a value; NaN if there is none."""

    value: float
    stderr: float
    n: Count


class StoredObjective(_Exact):
    """A task, one of its metrics, and a direction."""

    name: Short
    task: Short
    metric: Short
    filter: Short
    direction: Direction
    aggregation: Aggregation = "mean"
    goal: bool = True
    held_out: bool = False
    members: list[Short] = []
    relative: bool = False


class StoredOrigin(_Exact):
    """Where a model came from."""

    name: Name
    path: Short
    revision: Short | None = None
    digest: Short | None = None
    license: Short | None = None
    align: Short = ""


class StoredModel(_Exact):
    """How a model is found again."""

    name: Name
    revision: Short | None = None
    license: Short | None = None
    align: Short = ""

    reference: Short
    digest: Short
    sample: Short


class StoredConfig(BaseModel):
    """What readers need of a configuration; the rest is compared but never read."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: Name
    budget: Count | Literal["unlimited"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    models: dict[Name, Short]
    max_items: Count | None = None
    max_time: Short | None = None
    patience: Count | None = None
    constraints: list[Short] = []
    search: dict[Short, Any] = {}
    evaluation: dict[Short, Any] = {}
    split: dict[Short, Any] = {}
    extensions: dict[Short, Short] = {}


Docs: TypeAlias = list[Annotated[int, Field(ge=0, lt=2**31)]]
Numbers: TypeAlias = Annotated[list[Count], Field(max_length=1_000_000)]
Texts: TypeAlias = Annotated[list[Long], Field(max_length=100_000)]
TrialKey: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
"""A trial's number as text, since keys in JSON are text."""


class StoredItems(_Exact):
    """The items of each part, by leaf task."""

    search: dict[Short, Docs]
    select: dict[Short, Docs]
    test: dict[Short, Docs]


class StoredInputs(_Exact):
    """What is known about models and tasks from examining them."""

    objectives: Annotated[list[StoredObjective], Field(min_length=1, max_length=1000)]
    items: StoredItems
    members: dict[Short, list[Short]]
    split: Short
    clusters: dict[Short, Docs]
    n_layers: Annotated[int, Field(ge=0, le=100_000)]
    dtype: Short
    tasks: dict[Short, Short]
    evidence: dict[Name, dict[Name, Digest]]
    warnings: Texts
    score_commands: list[list[Long]]
    warm: dict[Name, StoredRecipe]
    smooth: list[Short]
    generated: list[Short]


class StoredBegun(_Exact):
    """What was fixed when the study began."""

    inputs: StoredInputs
    sampler: Entry
    window: Annotated[int, Field(ge=1, le=1_000_000)] | None
    fingerprint: Short
    origins: list[StoredOrigin]
    machine: Short
    started: Short
    command: Long


class StoredRun(_Exact):
    """The versions in a run, and the number of measurements before it."""

    after: Count
    versions: dict[Short, Short]


class StoredCurrent(_Exact):
    """What each run may change."""

    config: StoredConfig
    models: list[StoredModel]
    versions: Annotated[list[StoredRun], Field(min_length=1, max_length=10_000)]
    state: Literal["running", "interrupted", "finished", "failed"]
    finished: Short | None


class StoredFreeze(_Exact):
    """A shortlist that was frozen: its digest, and the number of trials before it."""

    digest: Short
    trials: Count


class StoredDecided(_Exact):
    """What selection decided."""

    shortlist: Numbers
    frozen: list[StoredFreeze]
    believed: dict[TrialKey, dict[Short, StoredEstimate]]
    baselines: Numbers
    front: Numbers | None
    remarks: list[Long] = []


class StoredWeights(_Exact):
    """The weights that test scores belong to, and the arithmetic they were computed with."""

    digest: Short
    without: list[Short]
    arithmetic: Short


def _adapter(kind: Any) -> TypeAdapter[Any]:
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return TypeAdapter(kind, config=None if is_model else ConfigDict(strict=True))


_KINDS: Mapping[str, Any] = {
    "schema_version": Any,
    "begun": StoredBegun,
    "current": StoredCurrent,
    "decided": StoredDecided,
    "searched_s": Seconds,
    "arithmetics": Annotated[list[Short], Field(max_length=1000)],
    "weights": dict[TrialKey, StoredWeights],
}
META: Mapping[str, TypeAdapter[Any]] = {key: _adapter(kind) for key, kind in _KINDS.items()}
"""The facts a store may hold, by key."""

RECIPE = _adapter(StoredRecipe)
PARAMS = _adapter(Params)
DIRECTION = _adapter(Weights)
TIMINGS = _adapter(StoredTimings)
NOTES = _adapter(Notes)
NAME = _adapter(Name)
ANSWERS = _adapter(Answers)


def misfit(kind: TypeAdapter[Any], text: str) -> str | None:
    """Describe how a JSON text does not fit: where, what is expected, and what it is.

    None if it fits.
    """
    try:
        kind.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(_step(step) for step in first["loc"])
        got = "" if first["type"] == "json_invalid" else f", got {_short(first['input'])}"
        problem = first["msg"].replace("Input should be", "expected")
        return f"{where + ': ' if where else ''}{problem}{got}"
    except RecursionError:
        return "nested too deeply"
    return None


def _step(step: int | str) -> str:
    return _short(step) if isinstance(step, str) and not step.isidentifier() else str(step)


def _short(value: object) -> str:
    """Format the beginning of a value for people."""
    if isinstance(value, dict | list):
        return f"{'a mapping' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = value if isinstance(value, str) else str(value) if _is_small(value) else "a huge number"
    return repr(text[:60] + "…") if len(text) > 60 else repr(text) if text is value else text


def _is_small(value: object) -> bool:
    return not isinstance(value, int) or abs(value) < 10**30
