"""Control strings of published model families: what text must not say to a model whose tokenizer is not available.

A string counts as it is written here, as tokenizers tell upper and lower case apart; ``#`` stands for a number, and a
name in angle or square brackets for its closing form, too. Strings that ordinary text is full of are left out, such as
``<filename>`` and ``<image>``, and so are roles that are plain words (``User:``): no tokenizer reads those as control.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

SHAPES: Final[Mapping[str, str]] = {
    # ChatML, Qwen, Llama 3 and 4, Phi, GPT-OSS, GLM, Kimi, Granite, Command R, OLMo, Tulu, Zephyr, Falcon 3, ERNIE,
    # Jamba, InternLM 2, LFM2, Apertus, Nemotron 3, Hunyuan; with fullwidth bars DeepSeek, Hunyuan and Step 3.
    # Source: the models' tokenizer_config.json; src/llama-chat.cpp of llama.cpp.
    "bars": r"<(?=\s{0,4}[|]\s{0,4}[^\s<>]{1,64}\s{0,4}[|]\s{0,4}>)",
    # Gemma 4 (<|turn>, <turn|>, <|"|>). Source: its chat template.
    "half bars": r"<(?=\s{0,4}(?:[|]\s{0,4}[\"\w]{1,32}|[\"\w]{1,32}\s{0,4}[|])\s{0,4}>)",
    # DeepSeek V3.2. Source: models/templates/DeepSeek-V3.2.jinja of llama.cpp.
    "DSML": r"<(?=\s{0,4}/?\s{0,4}[|]\s{0,4}DSML\s{0,4}[|])",
    # EXAONE, BlueLM. Source: src/llama-chat.cpp of llama.cpp; src/llamafactory/data/template.py of LLaMA-Factory.
    "square bars": r"\[(?=[|][A-Za-z]{2,24}[|]\])",
    # Seed-OSS, MiniMax M2 and M3, LongCat, Muse; Step 3.
    # Source: their chat templates; function_call/step3_detector.py of SGLang.
    "namespaces": r"<(?=\s{0,4}/?\s{0,4}(?:(?:seed|mm|minimax|atem|antml|steptml)\s{0,4}:|longcat_)"
    r"\w{1,32}[^<>\n]{0,64}>)",
    # Llama 2. Source: its reference code, llama/generation.py.
    "<<SYS>>": r"<(?=\s{0,4}<\s{0,4}/?\s{0,4}(?i:sys)\s{0,4}>\s{0,4}>)",
    # Ling and Ring. Source: src/llama-chat.cpp of llama.cpp.
    "<role>": r"<(?=role>(?:SYSTEM|HUMAN|USER|ASSISTANT|OBSERVATION|TOOL)</role>)",
    # Kimi-VL. Source: its chat template.
    "triangles": r"◁(?=\s{0,4}/?\s{0,4}(?i:think)\s{0,4}▷)",
    # Alpaca, DeepSeek Coder, Guanaco, Aquila, Dolly, LLM-jp, KoAlpaca.
    # Source: src/llamafactory/data/template.py of LLaMA-Factory; the models' cards.
    "headings": r"\#(?<!\#\#)(?<!\#\u200b\#)(?=\#{1,2}\s{0,4}"
    r"(?i:instruction|response|input|assistant|human|user|system|end|指示|入力|応答|질문|답변|명령어|응답)\s{0,4}:)",
    # Vicuna, WizardLM, LongCat; capitals that begin a line or follow a space.
    # Source: src/llama-chat.cpp of llama.cpp.
    "capitals": r"U(?<![^\n]U)(?=SER:)|A(?<!\SA)(?=SSISTANT:)",
    # OpenChat, Starling. Source: src/llama-chat.cpp of llama.cpp.
    "GPT4": r"G(?=PT4 (?:Correct )?(?:User|Assistant):)",
    # Apriel. Source: models/templates/Apriel-1.6-15b-Thinker-fixed.jinja of llama.cpp.
    "final response": r"\[(?=(?:BEGIN|END) FINAL RESPONSE\])",
}
"""Patterns of what many families write alike; each matches the one character after which it is broken."""

STRINGS: Final[Mapping[str, str]] = {
    # Source: tokenizer.model of Llama 2 and Mistral; the roles' tags in any case, see `_ANY_CASE`.
    "Llama 2": "<s> <unk> [INST]",
    # Source: mistral_common/tokens/tokenizers/base.py, SpecialTokens.
    "Mistral, Magistral, Pixtral, Voxtral": "[INST] [THINK] [TOOL_CALLS] [TOOL_RESULTS] [TOOL_RESULT] [TOOL_CONTENT] "
    "[AVAILABLE_TOOLS] [SYSTEM_PROMPT] [MODEL_SETTINGS] [ARGS] [CALL_ID] [IMG] [IMG_BREAK] [IMG_END] [AUDIO] "
    "[BEGIN_AUDIO] [TRANSCRIBE] [PREFIX] [MIDDLE] [SUFFIX] [control_#] <SPECIAL_#>",
    # Source: tokenizer_config.json of gemma-3-4b-it; the model card of FunctionGemma.
    "Gemma": "<bos> <eos> <pad> <mask> <unused#> [multimodal] <start_of_turn> <end_of_turn> <start_of_image> "
    "<end_of_image> <image_soft_token> <start_of_audio> <end_of_audio> <audio_soft_token> <start_function_call> "
    "<end_function_call> <start_function_declaration> <end_function_declaration> <start_function_response> "
    "<end_function_response> <escape>",
    # Source: chat templates of Qwen 3, Hermes 3, GLM 4.5, OLMo 3, ERNIE 4.5, EXAONE 4.
    "tags of thinking and tools": "<think> <thinking> <thought> <tool_call> <tool_calls> <tool_response> "
    "<tool_responses> <tool_output> <function_call> <function_calls> <arg_key> <arg_value>",
    # Source: tokenizer_config.json of c4ai-command-r-v01.
    "Command R": "<BOS_TOKEN> <EOS_TOKEN> <EOP_TOKEN> <MASK_TOKEN> <PAD> <UNK> <CLS> <SEP>",
    # Source: tokenizer_config.json of glm-4-9b-chat.
    "GLM": "<sop> <eop> [gMASK] [sMASK] [MASK]",
    # Source: tokenizer_config.json of Kimi-K2-Instruct.
    "Kimi": "[BOS] [EOS] [EOT] [PAD] [UNK] [start_header_id] [end_header_id] [extra_id_#]",
    # Source: chat templates of MiniMax-Text-01, MiniMax-M2 and MiniMax-M3.
    "MiniMax": "]~!b[ ]~b] ]!p~[ ]!d~[ [e~[ ]<]minimax[>[ <beginning_of_sentence> <end_of_sentence>",
    # Source: models/templates/NVIDIA-Nemotron-Nano-v2.jinja of llama.cpp; the model card of Nemotron-4.
    "Nemotron": "<SPECIAL_#> <extra_id_#> <AVAILABLE_TOOLS> <TOOLCALL> <TOOL_RESPONSE>",
    # Source: tokenizer_config.json of Baichuan2-13B-Chat.
    "Baichuan": "<reserved_#>",
    # Source: src/llamafactory/data/template.py of LLaMA-Factory.
    "InternLM, MOSS": "<eoh> <eoa> <eosys> <eom> <eoc> <eor> <eot> <TOKENS_UNUSED_#> [UNUSED_TOKEN_#]",
    # Source: tokenizer_config.json of TeleChat2-7B.
    "TeleChat": "<_user> <_bot> <_system> <_observation> <_start> <_end> <_pad>",
    # Source: src/llama-chat.cpp of llama.cpp.
    "MiniCPM": "<用户> <AI>",
    # Source: src/llama-chat.cpp of llama.cpp.
    "YandexGPT": "[SEP] [NL]",
    # Source: the model card of RedPajama-INCITE-7B-Chat.
    "RedPajama": "<human>: <bot>:",
    # Source: swift/llm/utils/template.py of ms-swift.
    "Skywork": "[USER] [BOT]",
    # Source: the tokenizer that Yuan2's README makes.
    "Yuan": "<eod> <predict> <FIM_PREFIX> <FIM_MIDDLE> <FIM_SUFFIX> <commit_before> <commit_msg> <commit_after>",
    # Source: the model card of jamba-1.5-mini.
    "Jamba": "<tool_definitions> <active_output_modes>",
    # Source: tokenizer_config.json of ERNIE-4.5-21B-A3B-PT.
    "ERNIE": "<mask:#> <cls> <sep>",
    # Source: tokenizer.json of falcon-7b.
    "Falcon": ">>TITLE<< >>ABSTRACT<< >>INTRODUCTION<< >>SUMMARY<< >>COMMENT<< >>ANSWER<< >>QUESTION<< >>DOMAIN<< "
    ">>PREFIX<< >>SUFFIX<< >>MIDDLE<<",
    # Source: tokenizer.json of starcoder2-7b, SmolLM2-135M-Instruct and CodeLlama-7b-hf.
    "code models": "<fim_prefix> <fim_middle> <fim_suffix> <fim_pad> <file_sep> <repo_name> <reponame> <gh_stars> "
    "<issue_start> <issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> "
    "<jupyter_script> <empty_output> <SUF> <MID> <EOT>",
    # Source: tokenizer_config.json of Idefics3-8B-Llama3 and InternVL3-8B.
    "models that see": "<end_of_utterance> <fake_token_around_image> <IMG_CONTEXT>",
    # Source: vocab.txt of bert-base-uncased; tokenizer.json of t5-small.
    "BERT, T5": "[CLS] [SEP] [MASK] [PAD] [UNK] [unused#] <extra_id_#> <special_#> <endoftext>",
}
"""Strings by family."""

_ANY_CASE: Final = frozenset(
    [
        "<think>",
        "<thinking>",
        "<thought>",
        "<tool_call>",
        "<tool_calls>",
        "<tool_response>",
        "<function_call>",
        "[INST]",
        "[THINK]",
        "[TOOL_CALLS]",
        "[TOOL_RESULTS]",
        "[AVAILABLE_TOOLS]",
        "[SYSTEM_PROMPT]",
    ]
)
"""Tags that models write in any case themselves, and obey in any case."""
_TAG: Final = re.compile(r"([<\[])([\w:]+#?)([>\]])")


def _pattern() -> re.Pattern[str]:
    """All of them in one; names between the same brackets share one look ahead, which is quick to fail."""
    forms: dict[str, None] = dict.fromkeys(SHAPES.values())
    names: dict[tuple[str, str], dict[str, None]] = {}
    for string in (string for row in STRINGS.values() for string in row.split()):
        if tag := _TAG.fullmatch(string):
            name = re.escape(tag[2]).replace(r"\#", r"\d{1,6}")
            names.setdefault((tag[1], tag[3]), {})[f"(?i:{name})" if string in _ANY_CASE else name] = None
        else:
            forms[f"{re.escape(string[0])}(?={re.escape(string[1:])})"] = None
    for (opening, closing), found in names.items():
        forms[rf"\{opening}(?=\s{{0,4}}/?\s{{0,4}}(?:{'|'.join(found)})\s{{0,4}}\{closing})"] = None
    return re.compile("|".join(forms))


PATTERN: Final = _pattern()
"""Matches the first character of each; what it looks at ahead is bounded, so that a text takes linear time."""
