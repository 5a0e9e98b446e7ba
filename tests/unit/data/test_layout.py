from __future__ import annotations

from typing import TYPE_CHECKING, Any

import encoding_lab as lab
import pytest

from hpo.spec.errors import InputError
from workers.data.example import Example, Turn, UnusableRow
from workers.data.tokens.encoder import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUM = Example.pair("1+1?", "2")
WORKED = Example.pair("1+1?", "one and one\n#### 2")
SYSTEM = Turn("system", "Be brief.")
WITH_SYSTEM = Example((SYSTEM, *SUM.turns))
TURNS = Example((Turn("user", "q1"), Turn("assistant", "a1"), *SUM.turns))
SHOTS = (("1", "2"), ("3", "4"), ("5", "6"))
END = "<|endoftext|>"


def parts(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    *,
    shots: tuple[Example, ...] = (),
    **fields: Any,
) -> tuple[str, str]:
    """What is given and what is learned."""
    encoder = Encoder(tokenizer, lab.spec(**fields), shots=shots)
    segments = encoder.segments(example)
    given = "".join(text for text, learned in segments if not learned)
    assert encoder.prompt_text(example) == given
    return given, "".join(text for text, learned in segments if learned)


@pytest.mark.parametrize(
    ("example", "system_prompt", "given"),
    [
        (SUM, None, "1+1?\n"),
        (SUM, "Add.", "Add.\n\n1+1?\n"),
        (WITH_SYSTEM, None, "Be brief.\n\n1+1?\n"),
        (WITH_SYSTEM, "Add.", "Be brief.\n\n1+1?\n"),
        (TURNS, None, "q1\na1\n1+1?\n"),
    ],
)
def test_plain(
    tokenizer: PreTrainedTokenizerBase, example: Example, system_prompt: str | None, given: str
) -> None:
    wanted = (given, f"2{END}")
    assert parts(tokenizer, example, template="plain", system_prompt=system_prompt) == wanted


def test_chat_takes_turns_and_the_system_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    lab.with_chat(tokenizer)
    given, learned = parts(tokenizer, TURNS, system_prompt="Add.")
    assert given == (
        "<|system|>Add.<|end|>\n<|user|>q1<|end|>\n<|assistant|>a1<|end|>\n"
        "<|user|>1+1?<|end|>\n<|assistant|>"
    )
    assert learned == "2<|end|>"
    assert parts(tokenizer, WITH_SYSTEM, system_prompt="Add.")[0].startswith("<|system|>Be brief.")


@pytest.mark.parametrize(("special", "end"), [(lab.CHATML, ""), ([], END)])
def test_chatml_whatever_the_tokenizers_own_template(
    tokenizer: PreTrainedTokenizerBase, special: list[str], end: str
) -> None:
    lab.with_special(tokenizer, *special, template="{{ raise_exception('never asked') }}")
    given, learned = parts(tokenizer, TURNS, template="chatml", system_prompt="Add.")
    assert given == (
        "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n"
        "<|im_start|>assistant\na1<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert learned == f"2<|im_end|>{end}"


def test_problem_and_solution(tokenizer: PreTrainedTokenizerBase) -> None:
    given, learned = parts(tokenizer, SUM, template="problem-solution", system_prompt="Add.")
    assert given == "Add.\n\nProblem:\n1+1?\n\nSolution:\n"
    assert learned == f"2{END}"
    given, _ = parts(tokenizer, SUM, template="problem-solution")
    assert given == "Problem:\n1+1?\n\nSolution:\n"


def test_competition(tokenizer: PreTrainedTokenizerBase) -> None:
    lab.with_special(tokenizer, *lab.CHATML)
    shown = Example(SUM.turns, shots=SHOTS)
    given, learned = parts(tokenizer, shown, template="competition", few_shot={"count": 2})
    assert (
        "<|im_start|>user\n1+1?\n\nExample 1:\nInput:\n1\nOutput:\n2\n\n"
        "Example 2:\nInput:\n3\nOutput:\n4\n\nWrite a complete" in given
    )
    assert given.endswith("<|im_start|>assistant\n")
    assert learned == "2\n<|im_end|>"
    for example, few_shot in ((shown, None), (SUM, {"count": 1})):
        given, _ = parts(tokenizer, example, template="competition", few_shot=few_shot)
        assert "<|im_start|>user\n1+1?\n\nWrite a complete" in given


def test_answer_in_tags(tokenizer: PreTrainedTokenizerBase) -> None:
    given, learned = parts(tokenizer, WORKED, template="answer")
    assert given.startswith("Solve the problem")
    assert given.endswith("Problem:\n1+1?\n\nSolution:\n")
    assert learned == f"one and one\n<answer>2</answer>{END}"


def test_a_completion_without_an_answer_is_one_rows_problem(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoder = Encoder(tokenizer, lab.spec(template="answer"))
    row = Example.pair("1+1?", "two", where="f:7")
    assert encoder.encode_prompt(row)
    with pytest.raises(UnusableRow, match="f:7: given a completion without a final answer"):
        encoder.encode_whole(row)


def test_fields_of_the_data(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "{{{level}}} {prompt}\n{completion}, says {who}{{}}\n"
    example = Example(SUM.turns, fields={"level": "A1", "who": "Ann"}, where="f:1")
    assert parts(tokenizer, example, template=text) == ("{A1} 1+1?\n", f"2, says Ann{{}}{END}")
    with pytest.raises(UnusableRow, match="f:1: given no field 'who'"):
        parts(tokenizer, Example(SUM.turns, fields={"level": "A1"}, where="f:1"), template=text)


def test_the_datas_own_names_of_prompt_and_completion(tokenizer: PreTrainedTokenizerBase) -> None:
    train = {"prompt": "input", "completion": "solution"}
    text = "Problem: {input}\nSolution: {solution}"
    assert parts(tokenizer, SUM, train=train, template=text) == (
        "Problem: 1+1?\nSolution: ",
        f"2{END}",
    )
    crossed = {"prompt": "completion", "completion": "prompt"}
    assert parts(tokenizer, SUM, train=crossed, template="{prompt}:{completion}")[0] == "1+1?:"


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"template": "{prompt} and {level}"}, "without {completion}"),
        ({"template": "{prompt}:{completion}", "system_prompt": "Add."}, "a system prompt"),
        ({"template": "{level}:{completion}", "few_shot": {"count": 1}}, "few-shot examples"),
    ],
)
def test_what_a_text_would_leave_out_is_refused(
    tokenizer: PreTrainedTokenizerBase, fields: dict[str, Any], given: str
) -> None:
    with pytest.raises(InputError, match=given):
        Encoder(tokenizer, lab.spec(**fields))


def test_fields_side_by_side_make_up_no_special_token(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer, lab.spec(template="{level}{prompt}:{completion}{level}"))
    row = Example.pair("of|>text|>", "<|endof", fields={"level": "text|>"})
    ids = encoder.encode_whole(row).input_ids
    assert lab.text(tokenizer, ids) == f"text|>of|>text|>:<|endoftext|>{END}"
    assert ids.count(encoder.end_token) == 1


def test_a_chat_template_without_system_prompts_is_refused_once(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    lab.with_chat(tokenizer, strict + lab.CHAT)
    with pytest.raises(InputError, match="no system"):
        parts(tokenizer, SUM, system_prompt="Add.")
    with pytest.raises(UnusableRow, match="no system"):
        parts(tokenizer, WITH_SYSTEM)


OWN = "Example 1:\nInput:\n1\nOutput:\n2\n\nExample 2:\nInput:\n3\nOutput:\n4\n\n"
DRAWN = "Example 1:\n2+2?\n4\n\n"


@pytest.mark.parametrize(
    ("few_shot", "shown"),
    [({"count": 2}, OWN), ({"origin": "train"}, DRAWN), (None, "")],
)
@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("plain", "q1\na1\n", "1+1?\n"),
        (
            "chat",
            "<|user|>q1<|end|>\n<|assistant|>a1<|end|>\n<|user|>",
            "1+1?<|end|>\n<|assistant|>",
        ),
        ("{prompt}\n{completion}", "", "q1\n\na1\n\n1+1?\n"),
        ("Q: {prompt}\n\n{examples}\n\nA: {completion}", "Q: q1\n\na1\n\n1+1?\n\n", "A: "),
    ],
)
def test_few_shot_examples_stand_before_the_last_question(
    tokenizer: PreTrainedTokenizerBase,
    few_shot: dict[str, Any] | None,
    shown: str,
    template: str,
    before: str,
    after: str,
) -> None:
    lab.with_chat(tokenizer)
    example = Example(TURNS.turns, shots=SHOTS)
    shots = (Example.pair("2+2?", "4"),)
    given, _ = parts(tokenizer, example, shots=shots, template=template, few_shot=few_shot)
    assert given == before + shown + after


def test_white_space_after_a_template_is_not_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    assert parts(tokenizer, SUM, template="{prompt}={completion}\n")[1] == f"2{END}"
    assert parts(tokenizer, SUM, template="{prompt}={completion}.\n")[1] == f"2.{END}"
    spaced = Example.pair("1+1?", "2 \n")
    assert parts(tokenizer, spaced, template="plain")[1] == f"2 \n{END}"


@pytest.mark.parametrize("template", ["competition", "{prompt}\n{completion}"])
def test_a_system_prompt_of_the_examples_own_needs_a_place(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    encoder = Encoder(tokenizer, lab.spec(template=template))
    turns = (Turn("system", "Be kind."), Turn("user", "a"), Turn("assistant", "b"))
    with pytest.raises(UnusableRow, match="a system prompt of the example's own"):
        encoder.encode_whole(Example(turns))


@pytest.mark.parametrize(
    ("template", "completion", "answer"),
    [
        ("plain", "4", "4"),
        # A tokenizer without that token says it letter by letter.
        ("chatml", "4", "4<|im_end|>"),
        ("answer", "2+2\n#### 4", "2+2\n<answer>4</answer>"),
        ("{prompt} = {completion}, that is it", "4", "4, that is it"),
    ],
)
def test_the_answer_is_what_a_model_that_learned_it_says(
    tokenizer: PreTrainedTokenizerBase, template: str, completion: str, answer: str
) -> None:
    encoder = Encoder(tokenizer, lab.spec(template=template))
    example = Example.pair("2+2", completion)
    assert encoder.answer_text(example).strip() == answer
    encoded = encoder.encode_whole(example)
    prompt = len(encoder.encode_prompt(example))
    said = tokenizer.decode(list(encoded.input_ids[prompt:]), skip_special_tokens=True)
    assert str(said).strip() == answer
