"""The words that the heuristic gate looks for, by what they tell."""

from __future__ import annotations

import re

STEPS = re.compile(
    r"\b(?:how (?:many|much|long|far)|step[ -]by[ -]step|prove|proof|derive|deduce|calculate|compute|solve|optimi[sz]e"
    r"|compare|contrast|explain why|plan|design|debug|refactor|schedule|estimate|evaluate|trade-?offs?|minimi[sz]e"
    r"|maximi[sz]e|probability|percent(?:age)?|if and only if|at least|at most|why"
    r"|wie ?viele?|berechne\w*|beweis\w*|vergleich\w*|schritt für schritt|warum|löse|entwirf|plane"
    r"|combien|calcul\w*|démontr\w*|prouve\w*|compare\w*|étape par étape|pourquoi|résou\w*"
    r"|cuánt[oa]s?|calcul[ae]\w*|demuestr\w*|compar\w*|paso a paso|por qué|resuelv\w*"
    r"|quant[ioae]s?|dimostr\w*|calcola\w*|confront\w*|passo (?:dopo|a) passo|perché|risolv\w*|demonstr\w*|por que"
    r"|сколько|докаж\w*|вычисл\w*|сравн\w*|почему|реш(?:и|ите)|hoeveel|bereken\w*|bewijs\w*|vergelijk\w*|waarom"
    r"|ile|oblicz\w*|udowodnij|porównaj|dlaczego|kaç|hesapla\w*|kanıtla\w*|karşılaştır\w*|neden)\b"
    r"|多少|计算|計算|证明|證明|比较|比較|为什么|為什麼|一步一步|逐步|求解|设计|設計"
    r"|いくつ|いくら|求め|なぜ|설계|계산|증명|비교|얼마|왜|몇"
    r"|كم|احسب|أثبت|قارن|لماذا|कितन|गणना|सिद्ध|तुलना|क्यों",
    re.IGNORECASE,
)
"""Work of several steps, in the languages that its alternatives show."""

SMALL_TALK = re.compile(
    r"\W*(?:hi|hello|hey|thanks?(?: you)?|thank you|good (?:morning|evening|night)|bye|ok(?:ay)?|yes|no"
    r"|hallo|danke|guten (?:morgen|tag|abend)|tschüss|ja|nein|bonjour|salut|merci|oui|non|hola|gracias|sí|adiós"
    r"|ciao|grazie|olá|obrigad[oa]|привет|спасибо|да|нет|你好|谢谢|謝謝|こんにちは|ありがとう|안녕하세요|감사합니다"
    r"|مرحبا|شكرا|नमस्ते|धन्यवाद)\b(?:\W+\w+){0,3}\W*",
    re.IGNORECASE,
)
"""A message that is no more than a greeting, thanks or an answer, with at most three words after it."""

ENGLISH = re.compile(
    r"a|about|an|and|any|are|as|at|be|but|by|can|could|did|do|does|for|from|give|had|has|have|how|i|if|in|into|is|it|its"
    r"|list|make|me|my|name|no|not|of|on|one|or|our|please|say|should|show|so|tell|than|that|the|their|then|there|these"
    r"|they|this|to|translate|use|was|we|were|what|when|where|which|who|why|will|with|would|write|you|your",
    re.IGNORECASE,
)
"""Function words and openings of requests: one of them in a text of some words makes it English."""

FAILED = re.compile(
    r"\b(?:error|errno|exception|traceback|failed|failure|denied|forbidden|not found|timed? ?out|unavailable"
    r"|invalid)\b",
    re.IGNORECASE,
)
"""A tool's result that reports a failure."""
