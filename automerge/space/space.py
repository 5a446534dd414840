"""A conditional search space over recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from automerge.arrays import Bools, Floats, Indices
from automerge.recipe import Coordinate, Recipe, Value
from automerge.space.calibration import Calibration
from automerge.space.crossing import Crossing
from automerge.space.experts import Experts
from automerge.space.flow import Flow
from automerge.space.method import METHOD, Choose, MethodSpace
from automerge.space.mixtures import Mixtures
from automerge.space.parameters import (
    BooleanParameter,
    CategoricalParameter,
    FloatParameter,
    Parameter,
)
from automerge.space.rewriting import as_sums
from automerge.space.structure import Structure
from automerge.space.swap import Swap
from automerge.trial import Params


@dataclass(frozen=True)
class Branch:
    """A region of the space without categorical choices: one method on one set of models."""

    method: str
    models: tuple[str, ...]
    choices: Params = field(hash=False)
    roles: tuple[str, ...]

    @property
    def dimension(self) -> int:
        """How many coordinates a branch reads."""
        return len(self.roles)


@dataclass(frozen=True)
class Space:
    """All recipes a search may propose.

    A walk visits the active parameters in a fixed order; what is asked next depends only on what
    was answered before.

    A vector has one real coordinate for each of `roles`, the parameters' names without their
    method: the weight of a source is one coordinate, whichever method reads it, so that methods
    share what a search learns of it. A branch reads those of its own roles.
    """

    base: str
    sources: tuple[str, ...]
    n_layers: int
    methods: Mapping[str, MethodSpace]
    dtype: str | None = None
    structure: Structure | Swap | Crossing | Flow | Mixtures | Experts | None = None
    noise: tuple[str, ...] = ()
    calibration: Calibration | None = None

    @property
    def trained(self) -> tuple[str, ...]:
        """The sources that are models: all but noise."""
        return tuple(source for source in self.sources if source not in self.noise)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter; each method's after those it depends on."""
        parameters: list[Parameter] = [self.method]
        for method in self.methods.values():
            parameters += [] if method.selection is None else [method.selection]
            parameters += method.used.values()
            parameters += method.floats(method.knobs).values()
            parameters += (switch.parameter for switch in method.switches)
        return (*{p.name: p for p in parameters}.values(), *self._common)

    @property
    def _common(self) -> tuple[FloatParameter, ...]:
        """Parameters that every method has."""
        layers = () if self.structure is None else self.structure.parameters
        return layers if self.calibration is None else (*layers, self.calibration.parameter)

    @cached_property
    def method(self) -> CategoricalParameter:
        """The choice every walk begins with."""
        return CategoricalParameter(METHOD, tuple(self.methods))

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """What the coordinates of vectors stand for, in order."""
        return tuple(dict.fromkeys(p.role for p in self._numbered))

    @property
    def _numbered(self) -> tuple[FloatParameter | BooleanParameter, ...]:
        """Parameters that have a coordinate."""
        return tuple(p for p in self.parameters if not isinstance(p, CategoricalParameter))

    @cached_property
    def columns(self) -> Mapping[str, int]:
        """The column of each role in vectors and positions."""
        return {role: i for i, role in enumerate(self.roles)}

    @cached_property
    def scales(self) -> Floats:
        """Prior standard deviation of each role, in fractions of its range: (roles,).

        1 / √12 where every value in the range is as likely; less where values near the middle are.
        """
        by_role = {p.role: p.scale for p in self._numbered}
        return np.array([by_role[role] for role in self.roles])

    @cached_property
    def smooth(self) -> Bools:
        """Which roles are numbers that the merged weights may have a slope in: (roles,)."""
        by_role = {p.role: p.smooth for p in self._numbered}
        return np.array([by_role[role] for role in self.roles])

    @cached_property
    def structural(self) -> Indices:
        """The columns of the roles that say which layers and experts a model has: (n,)."""
        own = () if self.structure is None else self.structure.parameters
        return np.array([self.columns[p.role] for p in own], dtype=np.intp)

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """One branch per method and set of models, in order."""
        common = tuple(parameter.role for parameter in self._common)
        return tuple(
            Branch(
                method.name,
                models,
                self._choices(method, label),
                (*method.roles(models), *common),
            )
            for method in self.methods.values()
            for label, models in method.selections.items()
        )

    def _choices(self, method: MethodSpace, label: str) -> Params:
        models = {} if method.selection is None else {method.selection.name: label}
        return MappingProxyType({METHOD: method.name, **models})

    def walk(self, choose: Choose) -> Params:
        """Build parameters by asking `choose` for each active one, in order, once.

        Raises:
            ValueError: an answer is out of bounds.
        """
        params: dict[str, Value] = {}

        def take(parameter: Parameter) -> Value:
            params[parameter.name] = parameter.check(choose(parameter))
            return params[parameter.name]

        method = self.methods[str(take(self.method))]
        models = method.models(take)
        for number in method.floats(models).values():
            take(number)
        for switch in method.switches:
            take(switch.parameter)
        for number in self._common:
            take(number)
        return MappingProxyType(params)

    def active(self, params: Params) -> Params:
        """Return the active parameters among `params`.

        Raises:
            ValueError: one is missing or out of bounds.
        """

        def choose(parameter: Parameter) -> Value:
            if parameter.name not in params:
                raise ValueError(f"the parameters lack {parameter.name!r}")
            return params[parameter.name]

        return self.walk(choose)

    def recipe(self, params: Params) -> Recipe:
        """Return the recipe these parameters stand for; inactive ones do not matter."""
        active = self.active(params)
        recipe = self.methods[str(active[METHOD])].recipe(active, self.dtype)
        if self.structure is not None:
            recipe = self.structure.recipe(recipe, active)
        return recipe if self.calibration is None else self.calibration.recipe(recipe, active)

    def pull_back(self, params: Params, slopes: Mapping[Coordinate, float]) -> dict[str, float]:
        """Return the slope of a loss in the parameters, given that in the numbers of their recipe.

        The chain rule, exact but for the rounding of recipes to six digits.

        Args:
            params: where the slope was taken.
            slopes: of the loss, per unit of each number of `recipe(params)` that has one.

        Returns:
            Role → slope of the loss per fraction of the role's range, as in `position`. Roles that
            move no number with a slope are left out: switches, structure, inactive ones.
        """
        active = self.active(params)
        method = self.methods[str(active[METHOD])]
        if self.structure is not None:
            slopes = self.structure.pull_back(method.recipe(active, self.dtype), active, slopes)
        pulled: dict[str, float] = {}
        for role, slope in method.pull_back(active, slopes):
            pulled[role] = pulled.get(role, 0.0) + slope
        return pulled

    def params(self, recipe: Recipe) -> Params | None:
        """Return parameters of an equivalent recipe; None where the space has none.

        Equivalent means the same values for every layer and component, however they are written:
        a plain number, or a source left out that has weight 0 here. Averages that the space does
        not have as such are read as sums of task vectors: so a search by task arithmetic knows
        where the base, the sources and the uniform average lie.
        """
        found: tuple[Recipe, Params] | None = (recipe, {})
        common: dict[str, Value] = {}
        for part in (self.calibration, self.structure):
            if part is not None and found is not None:
                found = part.read(found[0])
                common |= {} if found is None else found[1]
        if found is None or found[0].repair:
            return None
        plain, _ = found
        # A path's plain recipe names sources whose layers are never averaged.
        averaged = not isinstance(self.structure, Flow)
        same = (plain, *(as_sums(plain, self.base) if averaged else ()))
        read = (self._read(recipe, common) for recipe in same)
        return next((params for params in read if params is not None), None)

    @property
    def starts(self) -> tuple[tuple[str, Recipe], ...]:
        """Names and recipes that a search of its layers begins with."""
        return () if self.structure is None else tuple(self.structure.starts())

    def _read(self, recipe: Recipe, common: Params) -> Params | None:
        if recipe.dtype != self.dtype or recipe.slices:
            return None
        last = max(self.n_layers - 1, 1)
        depths = (*(layer / last for layer in range(self.n_layers)), 1.0)
        read = (method.params(recipe, depths) for method in self.methods.values())
        params = next((found for found in read if found is not None), None)
        return None if params is None else self.active({**common, **params})

    def branch(self, params: Params) -> Branch:
        """Return the branch that holds these parameters."""
        for branch in self.branches:
            if branch.choices.items() <= params.items():
                return branch
        raise ValueError(f"no branch of the space holds {dict(params)!r}")

    def to_vector(self, params: Params, fill: ArrayLike = 0.0) -> Floats:
        """Return coordinates of the roles, (roles,); those of `fill` for inactive roles."""
        vector = np.array(np.broadcast_to(fill, len(self.roles)), dtype=np.float64)
        for p in self.parameters:
            if p.name in params and not isinstance(p, CategoricalParameter):
                vector[self.columns[p.role]] = p.encode(params[p.name])
        return vector

    def from_vector(self, branch: Branch, vector: ArrayLike) -> Params:
        """Invert `to_vector`; every finite vector (roles,) gives valid parameters."""
        coordinates = np.asarray(vector, dtype=np.float64)
        if coordinates.shape != (len(self.roles),):
            raise ValueError(f"expected {len(self.roles)} coordinates; got {coordinates.shape}")
        listed = coordinates.tolist()

        def choose(parameter: Parameter) -> Value:
            if isinstance(parameter, CategoricalParameter):
                return branch.choices[parameter.name]
            return parameter.decode(listed[self.columns[parameter.role]])

        return self.walk(choose)

    @cached_property
    def prior(self) -> Floats:
        """Branch probabilities without knowledge: equal for methods, then for sets of models."""
        methods = [branch.method for branch in self.branches]
        return np.array([1 / len(self.methods) / methods.count(method) for method in methods])

    @property
    def by_group(self) -> bool:
        """Whether groups of tensors have a method each."""
        return any(len(method.parts) > 1 for method in self.methods.values())

    @cached_property
    def choices(self) -> tuple[tuple[str, str], ...]:
        """Every method that a group of tensors may be merged by, after the group's selector."""
        every = [part for method in self.methods.values() for part in method.parts]
        groups = list(dict.fromkeys(selector for selector, _ in every))
        return tuple(sorted(dict.fromkeys(every), key=lambda part: groups.index(part[0])))

    @cached_property
    def turns(self) -> tuple[str, ...]:
        """The names of methods that take turns where a search begins.

        All of them or, where groups of tensors choose, the first and those that differ from it in
        one group.
        """
        first, *others = self.methods.values()
        near = (m for m in others if len(set(m.parts) - set(first.parts)) == 1)
        return (first.name, *(method.name for method in near))

    @cached_property
    def codes(self) -> Floats:
        """A code per branch, (branches, choices + sources).

        The method of each group is one-hot, and sources are 0 or 1.
        """
        return np.array(
            [
                [float(choice in self.methods[branch.method].parts) for choice in self.choices]
                + [float(source in branch.models) for source in self.sources]
                for branch in self.branches
            ]
        )

    def position(self, params: Params) -> Floats:
        """Return a position in which near means similar: (roles + codes,).

        Fractions in [0, 1] of the ranges of all roles (the middle for inactive roles), then the
        branch's code.
        """
        fractions = np.full(len(self.roles), 0.5)
        for parameter in self.parameters:
            if parameter.name in params and not isinstance(parameter, CategoricalParameter):
                column = self.columns[parameter.role]
                fractions[column] = parameter.fraction(params[parameter.name])
        return np.append(fractions, self.codes[self.branches.index(self.branch(params))])

    def at(self, position: ArrayLike) -> Params:
        """Invert `position`."""
        numbers = np.asarray(position, dtype=np.float64)
        fractions = np.clip(numbers[: len(self.roles)], 0.0, 1.0).tolist()
        branch = self.branches[int(self.branch_numbers(numbers[None])[0])]

        def choose(parameter: Parameter) -> Value:
            if isinstance(parameter, CategoricalParameter):
                return branch.choices[parameter.name]
            return parameter.at_fraction(fractions[self.columns[parameter.role]])

        return self.walk(choose)

    def branch_numbers(self, positions: Floats) -> Indices:
        """Return the numbers of the branches that positions (k, roles + codes) lie in: (k,)."""
        alike = positions[:, None, len(self.roles) :] == self.codes[None]
        return np.asarray(alike.all(axis=2).argmax(axis=1))

    def settled(self, positions: Floats) -> Floats:
        """Return the positions of the parameters that `at` makes of these, up to rounding.

        Switches lie in the middle of their halves, inactive roles in the middle. All positions are
        (k, roles + codes).
        """
        d = len(self.roles)
        settled = np.clip(positions, 0.0, 1.0)
        switches = [p.role for p in self.parameters if isinstance(p, BooleanParameter)]
        for column in {self.columns[role] for role in switches}:
            settled[:, column] = np.where(settled[:, column] >= 0.5, 0.75, 0.25)
        numbers = self.branch_numbers(positions)
        for number in np.unique(numbers):
            branch, rows = self.branches[number], numbers == number
            fractions = settled[rows, :d]
            active = self.methods[branch.method].activity(branch.models, fractions, self.columns)
            active[:, [self.columns[parameter.role] for parameter in self._common]] = True
            settled[rows, :d] = np.where(active, fractions, 0.5)
        return settled

    def describe(self) -> str:
        """Return one line: the methods with their dimensions."""
        described = []
        if self.by_group:
            sizes = [branch.dimension for branch in self.branches]
            return (
                f"{len(self.sources)} sources; dimensions: {min(sizes)} to {max(sizes)} in "
                f"{len(self.methods)} combinations of methods"
            )
        for method in self.methods.values():
            sizes = [branch.dimension for branch in self.branches if branch.method == method.name]
            sets = f" × {len(sizes)} sets of models" if len(sizes) > 1 else ""
            described.append(f"{method.name} {max(sizes)}{sets}")
        return f"{len(self.sources)} sources; dimensions: {', '.join(described)}"
