"""Conversations become tokens as the template writes them, and exactly the assistant's words have a loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from pipeline.api import read_config, run_recipe
from pipeline.data import DataConfig
from pipeline.encoding import encoded
from pipeline.errors import BadRows, ConfigError, DataError
from pipeline.stopping import StopRequest
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.causal_rows import chats_of
from pipeline.tasks.chat import encode_chats, end_mark
from pipeline.tasks.chat_templates import CHAT_TEMPLATES
from pipeline.tasks.conversations import messages_of
from pipeline.tasks.generation import GenerateConfig, prompts_of, unanswerable
from tests.synthetic import checkpoint_for, rows, settings
from tests.tiny import tiny_tokenizer

CALL = {"name": "weather", "arguments": {"city": "Rome"}}
TOOLS = [{"name": "weather", "description": "of a city", "parameters": {"type": "object"}}]
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "the weather in Rome?"},
    {"role": "assistant", "tool_calls": [{"type": "function", "function": {**CALL, "arguments": '{"city": "Rome"}'}}]},
    {"role": "tool", "content": "sun"},
    {"role": "assistant", "content": " It is sünny "},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": "bye"},
]
SHAREGPT = [
    {"from": "system", "value": "Be kind."},
    {"from": "human", "value": "the weather in Rome?"},
    {"from": "function_call", "value": json.dumps(CALL)},
    {"from": "observation", "value": "sun"},
    {"from": "gpt", "value": " It is sünny "},
    {"from": "human", "value": "thanks"},
    {"from": "gpt", "value": "bye"},
]
WORDS_ONLY = [message for message in TALK if message["role"] != "tool" and "tool_calls" not in message]
JSON_CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'
LLAMA_CALL = JSON_CALL.replace("arguments", "parameters") + "<|eot_id|>"
TAGGED = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}:\n{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ message.content }}"
    "{% endif %}\n{% endfor %}"
)
FORGETFUL = "{% for message in messages %}{{ message.content if loop.last else '...' }}\n{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), style="decoder")


def chat_task(folder: Path, template: str | None, *, max_length: int = 2000, **data: Any) -> CausalLM:
    config = CausalLM.Config(name="causal_lm", chat_template=template, assistant_only_loss=data.pop("only", True))
    task = CausalLM(config, DataConfig(**{"messages_column": "talk", **data}))
    assert not task.problems()
    task.use_tokenizer(AutoTokenizer.from_pretrained(folder), max_length)
    return task


def learned(task: CausalLM, features: dict[str, list[Any]]) -> list[str]:
    """The text of each run of tokens with a loss, of the first row."""
    found: list[list[int]] = []
    before = False
    for token, flag in zip(features["input_ids"][0], features["trained"][0], strict=True):
        if flag:
            found = found if before else [*found, []]
            found[-1].append(token)
        before = bool(flag)
    return [str(task.tokenizer.decode(tokens)) for tokens in found]


@pytest.mark.parametrize(
    ("template", "talk", "expected"),
    [
        (
            "chatml",
            TALK,
            [f"<tool_call>\n{JSON_CALL}\n</tool_call><|im_end|>", " It is sünny <|im_end|>", "bye<|im_end|>"],
        ),
        ("llama3", TALK, [LLAMA_CALL, " It is sünny <|eot_id|>", "bye<|eot_id|>"]),
        ("zephyr", WORDS_ONLY, [" It is sünny [EOS]", "bye[EOS]"]),
        ("tagged.jinja", WORDS_ONLY, [" It is sünny [EOS]", "bye[EOS]"]),
    ],
)  # fmt: skip
def test_learned_tokens_are_the_words_of_the_assistant(
    template: str,
    talk: Any,
    expected: list[str],
    tokenizer_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tagged.jinja").write_text(TAGGED)
    task = chat_task(tokenizer_folder, template)
    features = task.encode({"talk": [json.dumps(talk)]})
    assert learned(task, features) == expected
    tokens = features["input_ids"][0]
    text = task.tokenizer.apply_chat_template(
        chats_of({"talk": [json.dumps(talk)]}, task.data)[0][0][0], tokenize=False
    )
    assert task.tokenizer.decode(tokens) == text and tokens.count(task.tokenizer.bos_token_id) <= 1
    plain = "".join(expected).replace("[EOS]", "")
    assert features["num_bytes"] == [len(plain.encode())]
    before = task.tokenizer.decode(tokens[: features["num_prompt_tokens"][0]])
    assert text[len(before) :].startswith("bye") and features["num_trained"] == [sum(features["trained"][0])]
    batch = task.collate([{key: cells[0] for key, cells in features.items()}], [])
    assert task.trained_positions(batch)[0].int().tolist() == features["trained"][0]


def test_both_spellings_tools_and_system_columns_say_the_same(tokenizer_folder: Path) -> None:
    task = chat_task(tokenizer_folder, "chatml", tools_column="tools", system_column="system")
    wrapped = [{"type": "function", "function": tool} for tool in TOOLS]
    found = task.encode(
        {
            "talk": [json.dumps(talk) for talk in (TALK, SHAREGPT, TALK[1:])],
            "tools": [json.dumps(TOOLS), json.dumps(TOOLS), json.dumps(wrapped)],
            "system": ["", "", "Be kind."],
        }
    )
    assert found["input_ids"][0] == found["input_ids"][1] == found["input_ids"][2]
    assert '"description": "of a city"' in task.tokenizer.decode(found["input_ids"][0])
    without = task.encode({"talk": [json.dumps(TALK)], "tools": [""], "system": [""]})
    assert "<tools>" not in task.tokenizer.decode(without["input_ids"][0])


def test_all_tokens_can_be_learned_and_pairs_are_conversations_of_one_turn(tokenizer_folder: Path) -> None:
    task = chat_task(tokenizer_folder, "chatml", only=False)
    features = task.encode({"talk": [json.dumps(WORDS_ONLY)]})
    assert features["trained"][0] == [0] + [1] * (len(features["input_ids"][0]) - 1)
    pairs: dict[str, Any] = {
        "messages_column": None,
        "prompt_column": ["instruction", "input"],
        "response_column": "output",
    }
    task = chat_task(tokenizer_folder, "zephyr", system_column="system", **pairs)
    features = task.encode({"instruction": ["sum"], "output": ["3"], "system": ["Be kind."], "input": ["1 2"]})
    text = "<|system|>\nBe kind.[EOS]\n<|user|>\nsum\n1 2[EOS]\n<|assistant|>\n3[EOS]\n"
    assert task.tokenizer.decode(features["input_ids"][0]) == text and learned(task, features) == ["3[EOS]"]


def test_what_is_answered_at_evaluation_ends_with_the_header_of_the_assistant(tokenizer_folder: Path) -> None:
    pairs: dict[str, Any] = {"prompt_column": "ask", "response_column": "say"}
    config = CausalLM.Config(name="causal_lm", chat_template="zephyr", sample_prompts=["hi"], generate=GenerateConfig())
    task = CausalLM(config, DataConfig(**pairs))
    task.use_tokenizer(AutoTokenizer.from_pretrained(tokenizer_folder), 200)
    (sample,) = task._sample_prompts()
    features = task.encode({"ask": ["hi"], "say": ["ho"]})
    batch = task.collate([{key: cells[0] for key, cells in features.items()}], [])
    (prompt,) = prompts_of(batch, task.tokenizer.pad_token_id)["input_ids"].tolist()
    assert prompt == sample and task.tokenizer.decode(prompt) == "<|user|>\nhi[EOS]\n<|assistant|>\n"


def test_pairs_without_a_template_join_what_is_not_empty(tokenizer_folder: Path) -> None:
    pairs: dict[str, Any] = {
        "messages_column": None,
        "prompt_column": ["instruction", "input"],
        "response_column": "output",
    }
    task = chat_task(tokenizer_folder, None, system_column="system", **pairs)
    rows_given = {"instruction": ["sum", "hi"], "output": ["3", "ho"], "system": ["Be kind.", ""], "input": ["1 2", ""]}
    features = task.encode(rows_given)
    assert [task.tokenizer.decode(ids) for ids in features["input_ids"]] == [
        "Be kind.\nsum\n1 2\n3[EOS]",
        "hi\nho[EOS]",
    ]
    assert learned(task, features) == ["3[EOS]"]


def test_a_cut_conversation_counts_the_bytes_that_are_left(tokenizer_folder: Path) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "äöü" * 20}]
    whole = chat_task(tokenizer_folder, "zephyr").encode({"talk": [json.dumps(talk)]})
    assert whole["num_bytes"] == [120.0]
    size = whole["num_prompt_tokens"][0] + 6
    cut = chat_task(tokenizer_folder, "zephyr", max_length=size).encode({"talk": [json.dumps(talk)]})
    assert cut["num_bytes"] == [6.0] and cut["num_trained"] == [6] and cut["full_length"] == whole["full_length"]


@pytest.mark.parametrize(
    ("talk", "problem"),
    [
        ({"role": "user", "content": "hi"}, "is an object, expected a list"),
        ([], "empty list"),
        (["hi"], "message 1 is 'hi'"),
        ([{"role": "moderator", "content": "hi"}], "message 1 has the unknown role 'moderator'; known: system"),
        ([{"content": "hi"}], "message 1 has no role"),
        ([{"role": "user", "content": ""}, TALK[-1]], r"message 1 \(user\) is empty"),
        ([{"from": "human", "value": 3}], "holds 3, expected text"),
        (TALK[:-1], "ends with a user message"),
        (TALK[-1:], "begins with the assistant"),
        ([TALK[1], {"from": "function_call", "value": "weather()"}], "expected the call of a function as JSON"),
        ([TALK[1], {"role": "assistant", "tool_calls": [{"arguments": {}}]}], "expected an object with name"),
        (TALK, "zephyr knows the roles system, user and assistant"),
        ([TALK[1], TALK[2]], "turn 1 of the assistant: the chat template leaves out 'weather'"),
    ],
)
def test_conversations_that_cannot_be_learned_from(talk: Any, problem: str, tokenizer_folder: Path) -> None:
    task = chat_task(tokenizer_folder, "zephyr")
    with pytest.raises(BadRows, match=problem) as caught:
        task.encode({"talk": [json.dumps(WORDS_ONLY), json.dumps(talk)]})
    assert list(caught.value.found) == [1] and caught.value.found[1].startswith("talk ")


def test_templates_that_cannot_be_used(tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no chat template of its own; name .* chatml, llama3, zephyr"):
        chat_task(tokenizer_folder, None)
    with pytest.raises(ConfigError, match=r"data\.tools_column: the chat template does not write tools"):
        chat_task(tokenizer_folder, "zephyr", tools_column="tools")
    (tmp_path / "forgetful.jinja").write_text(FORGETFUL)
    with pytest.raises(BadRows, match="turn 1 of the assistant: .* where the assistant's words stand cannot be told"):
        chat_task(tokenizer_folder, str(tmp_path / "forgetful.jinja")).encode({"talk": [json.dumps(WORDS_ONLY)]})
    (tmp_path / "parts.jinja").write_text(
        TAGGED.replace("message.content }}{{ eos", "message.content[0].text }}{{ eos")
    )
    with pytest.raises(BadRows, match="turn 1 of the assistant: the chat template leaves out 'It is sünny'"):
        chat_task(tokenizer_folder, str(tmp_path / "parts.jinja")).encode({"talk": [json.dumps(WORDS_ONLY)]})
    (tmp_path / "broken.jinja").write_text("{% for %}")
    with pytest.raises(ConfigError, match="line 1 of the template"):
        chat_task(tokenizer_folder, str(tmp_path / "broken.jinja")).encode({"talk": [json.dumps(WORDS_ONLY)]})


def test_the_places_of_bad_rows_are_those_in_the_file(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Past the first batch, and with blank lines between the rows."""
    talks = [*rows({"messages": "json messages"}, 1010)["messages"], json.dumps(TALK[:-1])]
    lines = [json.dumps({"talk": json.loads(talk)}) for talk in talks]
    (tmp_path / "train.jsonl").write_text("\n\n".join(lines))
    given = {"task": {"name": "causal_lm", "chat_template": "zephyr"}, "messages_column": "talk"}
    config = read_config("train", {**given, "train_file": str(tmp_path / "train.jsonl")})
    task = chat_task(tokenizer_folder, "zephyr")
    with pytest.raises(DataError, match=r"train\.jsonl:2021: talk ends with a user message"):
        encoded(config, task, Dataset.from_dict({"talk": talks}), "print", "train", StopRequest())


def test_the_template_in_use_is_saved_with_the_model(tmp_path: Path) -> None:
    start = checkpoint_for("causal_lm chat", tmp_path / "start")
    given = settings("causal_lm chat", None, start, tmp_path / "run", max_steps=1)
    talks = {"messages": "json messages", "system": "any_text"}
    run_recipe("finetune", given, datasets={"train": rows(talks, 8)})
    saved = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert saved.chat_template.strip() == CHAT_TEMPLATES["zephyr"].strip()


def test_a_turn_ends_with_the_mark_of_the_template(tokenizer_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.chat_template = CHAT_TEMPLATES["chatml"]
    assert end_mark(tokenizer) is None  # several tokens here
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    assert end_mark(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_the_last_answer_is_what_is_compared(tmp_path: Path) -> None:
    """The written texts are scored against the words of the last message."""
    given = settings("causal_lm chat", None, checkpoint_for("causal_lm chat", tmp_path / "start"), tmp_path / "run")
    given["task"] = {**given["task"], "generate": {"max_new_tokens": 4}}
    given["data"] = {"messages_column": "messages", "max_length": 60, "allow_overlap": True}
    talks = [[*TALK[1:2], {"role": "assistant", "content": word}] for word in ("sun", "rain", "snow")]
    data = {split: Dataset.from_dict({"messages": list(map(json.dumps, talks))}) for split in ("train", "validation")}
    run = run_recipe("finetune", {**given, "max_steps": 30}, datasets=data)
    assert round(3 * run.metrics["exact_match"]) in (0, 1)  # three answers to one question: at most one is right


def test_rows_without_an_answer_to_compare_with_are_refused(tokenizer_folder: Path) -> None:
    call = [*TALK[1:2], TALK[2]]
    chats: Any = [(messages_of(json.dumps(talk)), None) for talk in (WORDS_ONLY, call)]
    task = chat_task(tokenizer_folder, "chatml")
    features, problems = encode_chats(task.tokenizer, chats, max_length=1000, assistant_only=True)
    assert not problems
    answers = [messages[-1]["content"] for messages, _ in chats]

    def refused(features: Any) -> dict[int, str]:
        lengths = {"length": list(map(len, features["input_ids"]))}
        return unanswerable(answers, {**features, **lengths}, width=4, room=None)

    assert refused(features) == {1: "ends without words to compare with; drop the row, or leave task.generate out"}
    size = features["num_prompt_tokens"][0]
    cut, _ = encode_chats(task.tokenizer, chats, max_length=size, assistant_only=True)
    assert "last answer behind data.max_length" in refused(cut)[0]
