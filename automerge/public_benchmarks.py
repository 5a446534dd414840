"""Benchmarks everybody reports: once optimised for, their scores no longer mean much in general."""

from __future__ import annotations

import re
from types import MappingProxyType

_FAMILIES = MappingProxyType(
    {
        "AGIEval": "agieval",
        "AIME": "aime",
        "ANLI": "anli",
        "ARC": "ai2_arc|arc_(?:easy|challenge)|arc_mt",
        "ASDiv": "asdiv",
        "BBH": "bbh",
        "Belebele": "belebele",
        "BLiMP": "blimp",
        "BoolQ": "boolq",
        "C-Eval": "ceval",
        "CMMLU": "cmmlu",
        "CommonsenseQA": "commonsense_qa",
        "CoQA": "coqa",
        "GPQA": "gpqa",
        "GSM8K": "gsm8k|gsm_plus",
        "HellaSwag": "hellaswag",
        "HumanEval": "humaneval",
        "IFEval": "ifeval",
        "LAMBADA": "lambada",
        "LogiQA": "logiqa2?",
        "LongBench": "longbench2?",
        "MATH": "hendrycks_math(?:500)?|minerva_math(?:500)?|leaderboard_math",
        "MathQA": "mathqa",
        "MBPP": "mbpp",
        "MedMCQA": "medmcqa",
        "MedQA": "medqa",
        "MGSM": "mgsm",
        "MMLU": "mmlu|mmlusr|global_mmlu|openai_mmmlu",
        "MMLU-Pro": "mmlu[_-]pro",
        "MuSR": "musr",
        "Natural Questions": "nq_open",
        "Open LLM Leaderboard": "openllm|leaderboard",
        "OpenBookQA": "openbookqa",
        "PIQA": "piqa",
        "PubMedQA": "pubmedqa",
        "QASPER": "qasper",
        "SciQ": "sciq",
        "SQuAD": "squadv2|squad_completion",
        "StoryCloze": "x?storycloze",
        "SuperGLUE": "super[_-]glue",
        "TriviaQA": "triviaqa",
        "TruthfulQA": "truthfulqa",
        "WikiText": "wikitext",
        "WinoGrande": "winogrande|xwinograd",
        "XCOPA": "xcopa",
        "XNLI": "xnli",
    }
)
"""Patterns of lm-eval's names, by benchmark; any suffix may follow, and the longest match wins."""

_WORDS = MappingProxyType(
    {
        "DROP": "drop",
        "GLUE": "glue|cola|mnli|mrpc|qnli|qqp|rte|sst2|wnli",
        "RACE": "race",
        "Social IQa": "social_iqa|siqa",
        "SuperGLUE": "cb|copa|multirc|record|wic|wsc|wsc273",
        "SWAG": "swag",
    }
)
"""Names that are ordinary words, and must match as a whole."""

_PREFIX = r"(?:leaderboard_|tiny_?)?"


def benchmark(task: str) -> str | None:
    """Return the well-known benchmark that an lm-eval task, group or tag belongs to, by its name.

    None if it belongs to none of them.
    """
    task = task.lower()
    if exact := next((name for name, p in _WORDS.items() if re.fullmatch(p, task)), None):
        return exact
    matches = {
        name: match.end(1)
        for name, pattern in _FAMILIES.items()
        if (match := re.match(rf"{_PREFIX}({pattern})(?=$|[_:@/-])", task))
    }
    return max(matches, key=lambda name: matches[name], default=None)
