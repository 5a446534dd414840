"""Match an adapter's tensors with those of its base: the change to each, and its new shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from automerge.checkpoints.adapters.change import Change, Factors
from automerge.checkpoints.adapters.keys import ModuleKeys, read_keys
from automerge.checkpoints.adapters.names import BaseNames
from automerge.checkpoints.adapters.options import CONFIG, IA3, LORA, Settings
from automerge.checkpoints.places import LAYER
from automerge.checkpoints.reader import shown
from automerge.checkpoints.safetensors_file import TensorInfo
from automerge.errors import nearest

if TYPE_CHECKING:
    from torch import Tensor

ROWS_HELP = (
    "the adapter was trained with a resized embedding but does not contain all of it: save it "
    "again with save_embedding_layers=True"
)

KINDS = {
    **dict.fromkeys(
        ("A", "B", "embedding_A", "embedding_B", "B_bias", "magnitude", "tokens"), LORA
    ),
    "scale": IA3,
}
"""The kind of adapter that a form of tensor belongs to; other forms belong to every kind."""


@dataclass(frozen=True)
class Adapted:
    """The effect on a base: the changes by tensor, and all tensors with their new shapes.

    `rows` is the new number of rows of embedding and head, or None if it is the base's; `untied`
    is whether a tied head becomes a tensor of its own.
    """

    changes: Mapping[str, Change]
    tensors: Mapping[str, TensorInfo]
    rows: int | None
    untied: bool


def connect(
    settings: Settings,
    header: Mapping[str, TensorInfo],
    names: BaseNames,
    read: Callable[[str], Tensor],
) -> tuple[Adapted | None, list[str]]:
    """Match an adapter's tensors with its base's; return the effect, or None and all faults."""
    found, faults = read_keys(header)
    if not header:
        faults.append("contains no tensors")
    if dtypes := sorted({info.dtype for info in header.values() if not info.mergeable}):
        faults.append(f"stores {shown(dtypes)}, which cannot be merged; save it in float32")
    if faults:
        return None, faults
    work = _Connection(settings, header, names)
    for keys in found.values():
        work.add(keys)
    if not work.faults:
        work.scale_biases()
        work.tie(read)
    if not work.faults:
        work.check_rows()
    return (None, work.faults) if work.faults else (work.result(), [])


class _Connection:
    """Works out what an adapter does to its base."""

    def __init__(
        self, settings: Settings, header: Mapping[str, TensorInfo], names: BaseNames
    ) -> None:
        self.faults: list[str] = []
        self._settings = settings
        self._kind = settings.kind
        self._header = header
        self._names = names
        self._changes: dict[str, Change] = {}
        self._bases: dict[str, str] = {}
        self._over_outputs: dict[str, str] = {}
        self._rows: int | None = None
        self._untied = False

    def add(self, keys: ModuleKeys) -> None:
        """Match the tensors of one module."""
        strange = [(f, k) for f, k in keys.forms.items() if KINDS.get(f, self._kind) != self._kind]
        for form, key in strange:
            self.faults.append(
                f"{key!r:.200} is a tensor of {KINDS[form]}, but peft_type in {CONFIG} is "
                f"{self._kind!r}: copy both files from the same adapter"
            )
        if strange:
            return
        target = self._names.find(keys.name)
        if target is None:
            self.faults.append(self._unknown(keys))
            return
        forms = keys.forms
        stored = forms.get("whole") or forms.get("base") or forms.get("original")
        if (beneath := forms.get("base") or forms.get("original")) is not None:
            self._bases[target] = beneath
        shape = (self._names.info(target) if stored is None else self._header[stored]).shape
        self._check_shape(keys.name, target, shape)
        factors = None if "whole" in forms else self._factors(keys, target, shape)
        change = Change(
            stored,
            factors,
            self._magnitude(keys, factors, shape),
            self._tokens(keys, shape),
            self._added(keys, shape),
            None if "whole" in forms else self._scaled(keys, target, shape),
        )
        if change != Change():
            self._changes[target] = change

    def _unknown(self, keys: ModuleKeys) -> str:
        """Describe a tensor that the base does not have."""
        if "B_bias" in keys.forms:
            return (
                f"module {keys.module!r} has a bias for factor B (lora_bias), but the base has no "
                "bias there: it cannot be merged, not even by PEFT"
            )
        if not {"whole", "base", "original"} & keys.forms.keys():
            return f"module {keys.module!r} is not in the base: is it another model's adapter?"
        key = next(iter(keys.forms.values()))
        task = self._settings.task
        hint = nearest(keys.name, tuple(self._names.tensors))
        if task not in (None, "CAUSAL_LM"):
            hint += f"; it is an adapter of task_type {task}: is the base a model of that task?"
        return f"{key!r} belongs to no tensor of the base{hint}"

    def _check_shape(self, name: str, target: str, shape: tuple[int, ...]) -> None:
        """Refuse shapes other than the base's, except for the rows of vocabulary tensors."""
        expected = self._names.info(target).shape
        if shape == expected:
            return
        if shape[1:] == expected[1:] and target in self._names.vocabulary.names:
            return
        self.faults.append(f"{name!r} has shape {shape}, the base {expected}")

    def _factors(self, keys: ModuleKeys, target: str, weight: tuple[int, ...]) -> Factors | None:
        """Return the low-rank product of one module; None if there is none."""
        forms, module = keys.forms, keys.module
        for prefix in ("", "embedding_"):
            pair = forms.get(f"{prefix}A"), forms.get(f"{prefix}B")
            if pair == (None, None):
                continue
            if pair[0] is None or pair[1] is None:
                has = "A" if pair[0] is not None else "B"
                self.faults.append(f"module {module!r} has only factor {has} of A and B")
                return None
            return self._product(module, target, pair[0], pair[1], weight, embedding=bool(prefix))
        return None

    def _product(
        self,
        module: str,
        target: str,
        a: str,
        b: str,
        weight: tuple[int, ...],
        *,
        embedding: bool,
    ) -> Factors | None:
        down, up = self._header[a].shape, self._header[b].shape
        rank = self._settings.rank_of(module)
        if len(down) != 2 or len(up) != 2 or len(weight) != 2:
            self.faults.append(
                f"module {module!r}: factors must be matrices; got A {down}, B {up}, of a weight "
                f"{weight}"
            )
            return None
        if down[0] != rank or up[1] != rank:
            self.faults.append(
                f"module {module!r}: rank {rank} in {CONFIG}, but A is {down} and B {up}"
            )
            return None
        product = (up[0], down[1])
        fits, turned = product == weight and not embedding, product[::-1] == weight
        if not fits and not turned:
            there = product[::-1] if embedding else product
            resized = there[1:] == weight[1:] and target in self._names.vocabulary.names
            self.faults.append(
                f"module {module!r}: B·A has shape {there}, the base {weight}"
                + (f"; {ROWS_HELP}" if resized else "")
            )
            return None
        transposed = turned and not fits
        if turned and fits:
            transposed = self._names.transposed(target, self._settings.transposed)
        # A base stored beside the factors is the one they were trained on; embeddings start at 0.
        start = None if embedding or target in self._bases else self._settings.start
        if start == "olora" and transposed:
            self.faults.append(
                f"module {module!r}: OLoRA is not defined for a weight that is stored transposed"
            )
        return Factors(a, b, self._settings.scale_of(module), transposed, start)

    def _magnitude(
        self, keys: ModuleKeys, factors: Factors | None, weight: tuple[int, ...]
    ) -> str | None:
        """Return the key of DoRA's magnitudes, one per row (column if transposed)."""
        key = keys.forms.get("magnitude")
        if self._settings.dora and factors is not None and key is None:
            self.faults.append(f"module {keys.module!r} has no magnitudes, but use_dora is true")
        if key is None or factors is None:
            return None
        if not self._settings.dora:
            self.faults.append(
                f"module {keys.module!r} has magnitudes (DoRA), but use_dora is not true"
            )
        wanted = weight[1] if factors.transposed else weight[0]
        if self._header[key].n_elements != wanted:
            self.faults.append(
                f"module {keys.module!r}: {self._header[key].n_elements} magnitudes, "
                f"expected {wanted}"
            )
        return key

    def _tokens(
        self, keys: ModuleKeys, weight: tuple[int, ...]
    ) -> tuple[str, tuple[int, ...]] | None:
        """Return the key of rows of single tokens, and the tokens' ids."""
        key = keys.forms.get("tokens")
        if key is None:
            return None
        given = self._settings.tokens
        found = [ids for name, ids in given.items() if not name or keys.module.endswith(name)]
        shape = self._header[key].shape
        if len(found) != 1 or shape != (len(found[0]), *weight[1:]):
            self.faults.append(
                f"module {keys.module!r}: has rows of {shape[0]} tokens that are not listed in "
                f"trainable_token_indices in {CONFIG}"
            )
            return None
        if max(found[0], default=0) >= weight[0]:
            self.faults.append(
                f"module {keys.module!r}: has rows up to {max(found[0])}, the base {weight[0]}; "
                f"{ROWS_HELP}"
            )
            return None
        return key, found[0]

    def _added(self, keys: ModuleKeys, weight: tuple[int, ...]) -> tuple[str, float] | None:
        """Return the key and scale of the bias of factor B."""
        key = keys.forms.get("B_bias")
        if key is None:
            return None
        if self._header[key].shape != weight:
            self.faults.append(
                f"module {keys.module!r}: bias of B has shape {self._header[key].shape}, the "
                f"base's {weight}"
            )
        return key, self._settings.scale_of(keys.module)

    def _scaled(
        self, keys: ModuleKeys, target: str, weight: tuple[int, ...]
    ) -> tuple[str, int] | None:
        """Return the key of IA³'s vector, and the axis of the weight that it scales.

        PEFT saves a vector over the module's inputs (feedforward_modules) as (1, inputs), and one
        over its outputs as (outputs, 1).
        """
        key = keys.forms.get("scale")
        if key is None:
            return None
        shape = self._header[key].shape
        if len(weight) != 2:
            self.faults.append(
                f"module {keys.module!r}: only matrices are scaled, but the weight is {weight}"
            )
            return None
        turned = self._names.transposed(target, self._settings.transposed)
        inputs, outputs = weight if turned else weight[::-1]
        if shape == (outputs, 1):
            self._over_outputs[target] = key
            return key, int(turned)
        if shape != (1, inputs):
            self.faults.append(
                f"module {keys.module!r}: its vector has shape {shape}; expected {(outputs, 1)} to "
                f"scale its outputs or {(1, inputs)} to scale its inputs"
            )
        return key, int(not turned)

    def scale_biases(self) -> None:
        """Scale the bias of every module whose outputs are scaled, as PEFT does."""
        for target, key in self._over_outputs.items():
            bias = target.removesuffix("weight") + "bias"
            if bias in self._names.tensors:
                before = self._changes.get(bias, Change())
                self._changes[bias] = replace(before, scaled=(key, 0))

    def tie(self, read: Callable[[str], Tensor]) -> None:
        """Untie a tied head if embedding and head are changed differently."""
        if not any(LAYER.match(name) is None for name in self._changes):
            return
        embedding, heads = self._names.embedding, self._names.vocabulary.heads
        pair = [n for n in (embedding, *heads) if n is not None and n in self._changes]
        if embedding is None or not heads or not pair:
            return
        head = next((n for n in heads if n in self._changes), heads[0])
        one, other = self._changes.get(embedding), self._changes.get(head)
        if other is None and one is not None and one == Change(tokens=one.tokens):
            return  # PEFT's rows of single tokens also act on what is tied to the embedding
        beneath = self._bases.get(embedding) or self._bases.get(head)
        one, other = one or Change(beneath), other or Change(beneath)
        self._changes |= {embedding: one, head: other}
        if equal(one, other, read):
            del self._changes[head]
            return
        self._untied = True

    def check_rows(self) -> None:
        """Refuse an embedding and a head with different numbers of rows."""
        if all(self._shape(n) == self._names.info(n).shape for n in self._changes):
            return
        found = {}
        for name in self._names.vocabulary.names:
            if name in self._names.tensors or name in self._changes:
                found[name] = self._shape(name)[0]
        if len({*found.values()}) > 1:
            rows = ", ".join(f"{name} has {n}" for name, n in found.items())
            self.faults.append(f"numbers of rows differ: {rows}; {ROWS_HELP}")
        self._rows = next(iter(found.values()), None)

    def _shape(self, name: str) -> tuple[int, ...]:
        change = self._changes.get(name)
        if change is None or change.stored is None:
            return self._names.info(name).shape
        return self._header[change.stored].shape

    def result(self) -> Adapted:
        tensors = dict(self._names.tensors)
        for name in self._changes:
            tensors[name] = replace(self._names.info(name), shape=self._shape(name))
        return Adapted(self._changes, tensors, self._rows, self._untied)


def equal(one: Change, other: Change, read: Callable[[str], Tensor]) -> bool:
    """Return whether two changes of the same tensor give the same result."""
    import torch

    def same(a: str | None, b: str | None, turned: bool = False) -> bool:
        if a is None or b is None:
            return a is b
        first, second = read(a), read(b)
        return torch.equal(first, second.T if turned else second)

    if not same(one.stored, other.stored) or not same(one.magnitude, other.magnitude):
        return False
    if (one.tokens is None) != (other.tokens is None):
        return False
    if one.tokens is not None and other.tokens is not None:
        rows = same(one.tokens[0], other.tokens[0])
        if not rows or one.tokens[1] != other.tokens[1]:
            return False
    (key, axis), (key_2, axis_2) = one.scaled or (None, 0), other.scaled or (None, 0)
    if axis != axis_2 or not same(key, key_2):
        return False
    a, b = one.factors, other.factors
    if a is None or b is None:
        return a is b
    if (a.scale, a.start) != (b.scale, b.start):
        return False
    if a.transposed == b.transposed:
        return same(a.down, b.down) and same(a.up, b.up)
    return same(a.down, b.up, turned=True) and same(a.up, b.down, turned=True)
