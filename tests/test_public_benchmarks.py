"""Which lm-eval names belong to benchmarks that everybody reports."""

import pytest

from automerge.public_benchmarks import benchmark


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("arc_easy", "ARC"),
        ("arc_challenge_chat", "ARC"),
        ("hellaswag", "HellaSwag"),
        ("mmlu", "MMLU"),
        ("mmlu_anatomy", "MMLU"),
        ("mmlu_pro", "MMLU-Pro"),
        ("leaderboard_mmlu_pro", "MMLU-Pro"),
        ("leaderboard_math_hard", "MATH"),
        ("gsm8k_cot", "GSM8K"),
        ("gsm8k@train", "GSM8K"),
        ("tinyMMLU", "MMLU"),
        ("truthfulqa_mc2", "TruthfulQA"),
        ("winogrande", "WinoGrande"),
        ("mbpp", "MBPP"),
        ("humaneval", "HumanEval"),
        ("bbh_cot_fewshot", "BBH"),
        ("leaderboard_bbh_snarks", "BBH"),
        ("ifeval", "IFEval"),
        ("hendrycks_math500", "MATH"),
        ("gpqa_diamond_zeroshot", "GPQA"),
        ("leaderboard_musr", "MuSR"),
        ("boolq", "BoolQ"),
        ("piqa", "PIQA"),
        ("openbookqa", "OpenBookQA"),
        ("lambada_openai", "LAMBADA"),
        ("wikitext", "WikiText"),
        ("triviaqa", "TriviaQA"),
        ("race", "RACE"),
        ("drop", "DROP"),
        ("racetrack", None),
        ("race_results", None),
        ("arcade", None),
        ("mathematics", None),
        ("my_gsm8k", None),
        ("demo_facts", None),
        ("", None),
    ],
)
def test_a_name_belongs_to_its_benchmark(task: str, name: str | None) -> None:
    assert benchmark(task) == name
