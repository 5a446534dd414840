"""Models whose layers are stacked from slices of others: live, on disk, and refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import PeftModel
from safetensors.torch import load_file

from automerge.checkpoints import layout, open_checkpoint
from automerge.errors import ConfigError, PreflightError
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.methods import METHODS
from automerge.recipe import Profile, Recipe, RecipeSource, Slice, single, uniform_average
from tests.checkpoints.adapters import opened, train
from tests.checkpoints.models import llama, perturb, save
from tests.merging.test_architectures import CONFIGS, auto
from tests.methods.dataless import DATALESS

IDENTITY = {"scale": Profile.of({"*o_proj*": 0.0, "*down_proj*": 0.0})}
NAMES = ("base", "maths", "code", "chat")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    root, saved = tmp_path_factory.mktemp("models"), {}
    for seed, name in enumerate(NAMES):
        model = llama(num_hidden_layers=3).to(torch.bfloat16)
        saved[name] = save(perturb(model, seed), root / name)
    saved["deep"] = save(perturb(llama(num_hidden_layers=5), 9).bfloat16(), root / "deep")
    return saved


@pytest.fixture
def checkpoints(folders):
    return {name: open_checkpoint(folder) for name, folder in folders.items()}


def passthrough(*slices: Slice, models: tuple[str, ...] = ("base",)) -> Recipe:
    return Recipe("passthrough", tuple(RecipeSource(m, {}) for m in models), slices=slices)


def stacked(method: str) -> Recipe:
    """Two slices of three layers each, with other layers, sources and knobs."""
    declared = METHODS[method]
    names = NAMES[1:][: declared.max_sources or 3]
    knobs = {"weight": Profile.of([0.8, 0.2]), "density": Profile.of({"mlp": 0.4, "default": 0.7})}
    own = {k.name: knobs[k.name] for k in declared.source_knobs if k.name in knobs}
    based = ("base",) if declared.anchored else ()
    shifted = {name: (i % 2, i % 2 + 2) for i, name in enumerate((*based, *names))}
    return Recipe(
        method,
        tuple(RecipeSource(name, own) for name in names),
        base="base" if declared.anchored else None,
        seed=4,
        slices=(
            Slice(dict.fromkeys((*based, *names), (0, 3))),
            Slice(shifted, {names[0]: {"weight": Profile.of(0.5)}} if "weight" in own else {}),
        ),
    )


def load(folder: Path, dtype=torch.float32):
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(12).reshape(2, 6)).logits


@pytest.mark.sample(5)
@pytest.mark.parametrize("method", DATALESS)
def test_the_live_model_and_the_exported_folder_have_the_same_bits(method, checkpoints, tmp_path):
    recipe = stacked(method)
    merge_to_folder(recipe, checkpoints, tmp_path / "out")
    live = load(tmp_path / "out")
    assert live.config.num_hidden_layers == 5
    wanted = {name: p.clone() for name, p in live.named_parameters()}
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.zero_()
    ResidentEngine(checkpoints).merge_into(live, recipe)
    assert all(torch.equal(p, wanted[name]) for name, p in live.named_parameters())


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "slerp", "karcher"])
def test_a_slice_of_all_layers_is_a_recipe_without_slices(method, checkpoints):
    whole = dataclasses.replace(stacked(method), slices=())
    models = dict.fromkeys(whole.models, (0, 3))
    one = dataclasses.replace(whole, slices=(Slice(models),))
    engine = ResidentEngine(checkpoints)
    plain, sliced = dict(engine.merge(whole)), dict(engine.merge(one))
    assert plain.keys() == sliced.keys()
    assert all(torch.equal(tensor, sliced[name]) for name, tensor in plain.items())


def test_layers_are_those_of_the_models_they_are_taken_from(checkpoints, folders):
    recipe = passthrough(Slice({"base": (0, 2)}), Slice({"deep": (3, 5)}), models=("base", "deep"))
    merged = dict(ResidentEngine(checkpoints).merge(recipe))
    base, deep = (load_file(folders[name] / "model.safetensors") for name in ("base", "deep"))
    for name, tensor in merged.items():
        match name.split("."):
            case ["model", "layers", ("0" | "1"), *_] | ["model", "embed_tokens", _]:
                expected = base[name]
            case ["model", "layers", number, *rest]:
                expected = deep[".".join(["model", "layers", str(int(number) + 1), *rest])]
            case _:
                expected = deep[name]
        assert torch.equal(tensor, expected), name
    assert len(merged) == len(base) + 9


def test_a_copied_layer_without_its_outputs_changes_nothing(checkpoints, folders, tmp_path):
    """x + 0·attention + 0·mlp = x."""
    recipe = passthrough(
        Slice({"base": (0, 2)}),
        Slice({"base": (1, 2)}, {"base": IDENTITY}),
        Slice({"base": (2, 3)}),
    )
    merge_to_folder(recipe, checkpoints, tmp_path / "out")
    deeper = load(tmp_path / "out")
    assert deeper.config.num_hidden_layers == 4
    assert torch.equal(logits(deeper), logits(load(folders["base"])))
    tokens = torch.arange(4)[None]
    generated = deeper.generate(tokens, max_new_tokens=4, do_sample=False)
    plain = load(folders["base"]).generate(tokens, max_new_tokens=4, do_sample=False)
    assert torch.equal(generated, plain)


def test_values_run_over_each_slice(checkpoints):
    knobs = {"scale": Profile.of([0.5, 1.5])}
    recipe = Recipe(
        "passthrough",
        (RecipeSource("base", knobs),),
        slices=(Slice({"base": (0, 3)}), Slice({"base": (0, 1)})),
    )
    tensors = {"base": checkpoints["base"].tensors}
    parts = recipe.parts
    at = {
        target.place.tensor: parts[target.part].sources[0].knobs["scale"].at(target.place)
        for target in layout(recipe, tensors)
    }
    name = "self_attn.q_proj.weight"
    assert [at[f"model.layers.{i}.{name}"] for i in range(4)] == [0.5, 1.0, 1.5, 1.5]
    assert (at["model.embed_tokens.weight"], at["lm_head.weight"]) == (0.5, 1.5)


def test_an_adapter_takes_part_in_slices(tmp_path):
    trained = train(tmp_path, target_modules=["q_proj"])
    base = open_checkpoint(trained.base)
    models = {"base": base, "lora": open_checkpoint(trained.folder, base)}
    pieces = (Slice({"base": (0, 1)}), Slice({"lora": (0, 3)}))
    result = dict(ResidentEngine(models).merge(passthrough(*pieces, models=("base", "lora"))))
    model = PeftModel.from_pretrained(opened(trained.base), trained.folder).merge_and_unload()
    wanted = model.state_dict()["model.layers.1.self_attn.q_proj.weight"]
    torch.testing.assert_close(result["model.layers.2.self_attn.q_proj.weight"], wanted)


# What a live model must be


STRUCTURES = {
    "without its middle": [(0, 1), (2, 3)],
    "its end twice": [(0, 3), (1, 3)],
    "as it is": [],
    "its middle thrice": [(0, 2), (1, 2), (1, 3)],
    "without its beginning": [(1, 3)],
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", ["linear", "dare_ties"])
def test_a_live_model_gets_the_layers_of_each_recipe(method, checkpoints, folders, tmp_path):
    live, engine = load(folders["base"]), ResidentEngine(checkpoints)
    whole = dataclasses.replace(stacked(method), slices=())
    tokens = torch.arange(4)[None]
    for name, spans in [*STRUCTURES.items(), *STRUCTURES.items()]:
        pieces = tuple(Slice(dict.fromkeys(whole.models, span)) for span in spans)
        recipe = dataclasses.replace(whole, slices=pieces)
        engine.merge_into(live, recipe)
        merge_to_folder(recipe, checkpoints, tmp_path / name, overwrite=True)
        exported = load(tmp_path / name)
        assert live.num_parameters() == exported.num_parameters()
        assert torch.equal(logits(live), logits(exported))
        generated = [
            m.generate(tokens, max_new_tokens=4, do_sample=False) for m in (live, exported)
        ]
        assert torch.equal(*generated)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", [n for n in CONFIGS if not n.startswith("t5")])
def test_layers_of_any_live_architecture_are_left_out_and_run_twice(name, tmp_path):
    folder = made(CONFIGS[name](), tmp_path / "base")
    checkpoints = {"base": open_checkpoint(folder)}
    live, engine = load(folder), ResidentEngine(checkpoints)
    for spans in ([(0, 2), (0, 2)], [(0, 1)], [(0, 2)]):
        recipe = passthrough(*(Slice({"base": span}) for span in spans))
        engine.merge_into(live, recipe)
        merge_to_folder(recipe, checkpoints, tmp_path / "out", overwrite=True)
        assert torch.equal(logits(live), logits(load(tmp_path / "out")))


def test_live_layers_keep_their_kinds_and_are_numbered_anew(tmp_path):
    folder = made(config("gemma2", num_hidden_layers=4), tmp_path / "base")
    live, engine = load(folder), ResidentEngine({"base": open_checkpoint(folder)})
    engine.merge_into(live, passthrough(Slice({"base": (0, 1)}), Slice({"base": (2, 4)})))
    assert live.config.layer_types == ["sliding_attention"] * 2 + ["full_attention"]
    assert [layer.self_attn.layer_idx for layer in live.model.layers] == [0, 1, 2]


def test_a_live_model_measures_only_layers_that_can_be_exported(tmp_path):
    plain = config("qwen2 moe", num_hidden_layers=4, decoder_sparse_step=2)
    folder = made(plain, tmp_path / "base")
    live, engine = load(folder), ResidentEngine({"base": open_checkpoint(folder)})
    with pytest.raises(PreflightError, match="a qwen2_moe cannot have these layers in this order"):
        engine.merge_into(live, passthrough(Slice({"base": (0, 1)}), Slice({"base": (2, 3)})))
    engine.merge_into(live, passthrough(Slice({"base": (0, 2)})))
    with pytest.raises(PreflightError, match=r"has no parameter|fills"):
        engine.merge_into(live, passthrough(Slice({"base": (1, 3)})))
    engine.merge_into(live, single("base"))
    assert torch.equal(logits(live), logits(load(folder)))


def test_there_is_no_distance_to_a_base_of_other_layers(checkpoints, folders):
    live, engine = load(folders["base"]), ResidentEngine(checkpoints)
    engine.merge_into(live, passthrough(Slice({"base": (0, 2)})))
    with pytest.raises(PreflightError, match="defined only for models with"):
        engine.distance(live, "base")


def test_a_model_with_two_lists_of_layers_keeps_them(checkpoints, folders):
    live, engine = load(folders["base"]), ResidentEngine(checkpoints)
    live.more = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    with pytest.raises(PreflightError, match="2 lists of 3 modules where one is expected"):
        engine.merge_into(live, passthrough(Slice({"base": (0, 2)})))


def test_a_live_stack_is_not_half_filled_by_a_recipe_of_fewer_layers(checkpoints, tmp_path):
    recipe = passthrough(Slice({"base": (0, 3)}), Slice({"base": (1, 3)}))
    merge_to_folder(recipe, checkpoints, tmp_path / "out")
    live, engine = load(tmp_path / "out"), ResidentEngine(checkpoints)
    engine.merge_into(live, recipe)
    with pytest.raises(PreflightError, match=r"no checkpoint tensor fills .*layers\.3"):
        engine.merge_into(live, single("base"))


# Configurations


def made(config: hf.PretrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    model = auto(config).from_config(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def written(config: hf.PretrainedConfig, pieces, tmp_path: Path) -> dict:
    """The configuration of the layers (start, stop) of one model, which is then loaded."""
    checkpoints = {"base": open_checkpoint(made(config, tmp_path / "base"))}
    recipe = passthrough(*(Slice({"base": piece}) for piece in pieces))
    merge_to_folder(recipe, checkpoints, tmp_path / "out")
    _, info = auto(config).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    return json.loads((tmp_path / "out/config.json").read_text())


def config(name: str, **changes) -> hf.PretrainedConfig:
    plain = CONFIGS[name]().to_dict()
    plain.pop("layer_types", None)
    return type(CONFIGS[name]()).from_dict({**plain, **changes})


def test_the_kinds_of_layers_go_with_the_layers(tmp_path):
    written_config = written(
        config("gemma2", num_hidden_layers=4), [(0, 2), (0, 1), (2, 4)], tmp_path
    )
    local, whole = "sliding_attention", "full_attention"
    assert written_config["num_hidden_layers"] == 5
    assert written_config["layer_types"] == [local, whole, local, local, whole]


def test_a_configuration_may_call_its_layers_otherwise(tmp_path):
    written_config = written(config("gpt2"), [(0, 2), (1, 2)], tmp_path)
    assert written_config["n_layer"] == 3


def test_numbers_of_layers_are_renumbered(tmp_path):
    plain = config("qwen2 moe", num_hidden_layers=3, mlp_only_layers=[1])
    assert written(plain, [(1, 3), (1, 2)], tmp_path)["mlp_only_layers"] == [0, 2]


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", [n for n in CONFIGS if not n.startswith("t5")])
def test_layers_of_any_architecture_are_stacked(name, tmp_path):
    written(CONFIGS[name](), [(0, 2), (0, 2)], tmp_path)


def test_layers_that_an_architecture_cannot_have_in_that_order_are_refused(tmp_path):
    plain = config("qwen2 moe", num_hidden_layers=4, decoder_sparse_step=2)
    with pytest.raises(PreflightError, match="a qwen2_moe cannot have these layers in this order"):
        written(plain, [(0, 1), (2, 3)], tmp_path / "a")
    written(plain, [(0, 2), (0, 4)], tmp_path / "b")


def test_a_model_of_two_stacks_is_refused(tmp_path):
    message = r"need one stack of layers; base has decoder.block \(2 layers\), encoder.block \(2 "
    with pytest.raises(PreflightError, match=message):
        written(CONFIGS["t5"](), [(0, 2)], tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([Slice({"base": (1, 4)})], r"slice 1: base has 3 layers; got \[1, 4\]"),
        ([Slice({})], "slice 1: expected `layers`"),
        ([Slice({"base": (0, 0)})], r"slice 1: expected the first layer.*got \[0, 0\]"),
        ([Slice({"maths": (0, 1)})], "slice 1: unknown model 'maths'"),
        (
            [Slice({"base": (0, 1)}, {"maths": {}})],
            "slice 1: maths: 'maths' is not a source of this slice",
        ),
        ([Slice({"base": (0, 1)}, {"base": {"scal": Profile.of(1)}})], "has no 'scal'; did you"),
        ([Slice({"base": (0, 1)}, {}, {"t": Profile.of(1)})], "slice 1: passthrough has no 't'"),
    ],
)
def test_slices_that_cannot_be_are_refused(pieces, message, checkpoints):
    with pytest.raises((ConfigError, PreflightError), match=message):
        list(ResidentEngine(checkpoints).merge(passthrough(*pieces)))


def test_each_slice_has_the_models_its_method_takes(checkpoints):
    engine, (a, b) = ResidentEngine(checkpoints), (RecipeSource(n, {}) for n in ("maths", "code"))
    pieces = (Slice({"maths": (0, 1), "code": (0, 1)}), Slice({"maths": (1, 3)}))
    for recipe, message in (
        (Recipe("passthrough", (a, b), slices=pieces), r"slice 1: .* exactly 1 source.*got 2"),
        (Recipe("slerp", (a, b), slices=pieces), r"slice 2: .* exactly 2 source.*got 1"),
        (Recipe("ties", (a, b), "base", slices=pieces), "slice 1: ties merges task vectors and ne"),
        (Recipe("linear", (a, b), slices=pieces[1:]), "no slice has layers of 'code'"),
    ):
        with pytest.raises(ConfigError, match=message):
            list(engine.merge(recipe))
    uneven = Slice({"maths": (0, 1), "code": (0, 2)})
    with pytest.raises(
        ConfigError, match=r"slice 1: takes 1 layer\(s\) of maths, but 2 of another"
    ):
        list(
            engine.merge(dataclasses.replace(uniform_average(["maths", "code"]), slices=(uneven,)))
        )


def test_layers_of_other_shapes_do_not_merge(checkpoints, tmp_path):
    wide = save(llama(intermediate_size=32).bfloat16(), tmp_path / "wide")
    models = {**checkpoints, "wide": open_checkpoint(wide)}
    both = dataclasses.replace(
        uniform_average(["base", "wide"]), slices=(Slice({"base": (0, 1), "wide": (1, 2)}),)
    )
    with pytest.raises(PreflightError, match=r"slice 1: wide's model.layers.1.mlp.down_proj"):
        list(ResidentEngine(models).merge(both))
