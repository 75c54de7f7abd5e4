"""Detects secrets and personal data by pattern, and by checksum if the number has one. None is printed in full.

Keys with prefixes that their issuers publish; private keys; JSON Web Tokens (RFC 7519); Chinese resident identity
numbers (GB 11643-1999: check character by ISO 7064 MOD 11-2); US social security numbers; bank cards (issuer's prefix
and length, Luhn's check digit); IBANs (ISO 13616, remainder 1 of 97). E-mail addresses and telephone numbers are only
advice, because many data sets need them. Those reserved for examples (RFC 2606, 555-01xx) are skipped.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import date

from toolhone.data.check.finding import Finding, Severity
from toolhone.data.values import leaves
from toolhone.records import Conversation

_KEYS = (
    # the kind, a text that every match contains, the pattern
    ("an Anthropic key", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{20,}"),
    ("an OpenAI key", "sk-", r"(?<![A-Za-z0-9_-])sk-(?!ant-)(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]*[A-Za-z0-9]{20,}"),
    ("an AWS access key", "KIA", r"(?<![A-Z0-9])AKIA[A-Z0-9]{16}(?![A-Z0-9])"),
    ("an AWS access key", "ASIA", r"(?<![A-Z0-9])ASIA[A-Z0-9]{16}(?![A-Z0-9])"),
    ("a Google API key", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    ("a GitHub token", "gh", r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36,}"),
    ("a GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{40,}"),
    ("a GitLab token", "glpat-", r"glpat-[A-Za-z0-9_-]{20,}"),
    ("a Slack token", "xox", r"xox[abeprs]-[A-Za-z0-9-]{10,}"),
    ("a Stripe key", "k_live_", r"[rs]k_live_[A-Za-z0-9]{16,}"),
    ("a Hugging Face token", "hf_", r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}"),
    ("an npm token", "npm_", r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}"),
    ("a PyPI token", "pypi-", r"pypi-AgE[A-Za-z0-9_-]{50,}"),
    ("a SendGrid key", "SG.", r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    ("an Alibaba Cloud key", "LTAI", r"(?<![A-Za-z0-9])LTAI[A-Za-z0-9]{12,30}(?![A-Za-z0-9])"),
    ("a Tencent Cloud key", "AKID", r"(?<![A-Za-z0-9])AKID[A-Za-z0-9]{20,40}(?![A-Za-z0-9])"),
    ("a private key", "PRIVATE KEY-----", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    ("a JSON Web Token", "eyJ", r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
)
_KEY_PATTERNS = tuple((kind, mark, re.compile(pattern)) for kind, mark, pattern in _KEYS)

_CHINESE_ID = re.compile(r"(?<![0-9A-Za-z])[1-9]\d{5}(?:18|19|20)\d{9}[\dXx](?![0-9A-Za-z])")
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_CARD = re.compile(r"(?<![0-9A-Za-z.-])\d(?:[ -]?\d){12,18}(?![0-9A-Za-z]|[.-]\d)")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}")
_EXAMPLE_EMAIL = re.compile(r"@(?:[a-z0-9-]+\.)*(?:example\.(?:com|org|net)|example|test|invalid|localhost)$", re.I)
_PHONE = re.compile(
    r"(?<![0-9A-Za-z])(?:(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}|\+[1-9]\d{0,2}(?:[ -]?\(?\d{2,4}\)?){2,5}|"
    r"\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4})(?![0-9A-Za-z])"
)
_EXAMPLE_PHONE = re.compile(r"555[ -]?01\d\d$")

# Few rows contain any of these. Two passes over a row's bytes rule them out, much faster than the patterns do. Every
# key is a long run of key characters. Every number has a run of digits once separators are removed (in an IBAN, after
# two capitals).
_KEY_LIKE = bytes(ord("k") if (chr(n).isalnum() and n < 128) or chr(n) in "_-." else ord(" ") for n in range(256))
_NUMBER_LIKE = bytes(
    ord("0") if chr(n) in "0123456789" else ord("A") if "A" <= chr(n) <= "Z" else n if chr(n) == "-" else ord("x")
    for n in range(256)
)
_KEY_RUN, _DIGIT_RUN, _SSN_RUN, _IBAN_RUN = b"k" * 15, b"0" * 10, b"000-00-0000", re.compile(rb"AA00[A0]{11}")
_LONG_NUMBER = re.compile(r"(?<![0-9A-Za-z])[+(]?\d(?:[ ()-]{0,2}\d){9}")


def private_findings(row: Conversation) -> list[Finding]:
    """Findings on secrets and personal data in a row's messages and arguments, one for each value."""
    texts: list[str] = []
    starts: list[int] = []  # where the texts of each message start
    for message in row.messages:
        starts.append(len(texts))
        texts.append(message.content)
        texts += [message.thinking] if message.thinking else []
        for call in message.tool_calls:
            for value in call.arguments.values():
                if type(value) is str:  # nearly all are
                    texts.append(value)
                else:
                    whole = [leaf for _, leaf in leaves(value) if isinstance(leaf, str | int)]
                    texts += [str(leaf) for leaf in whole if isinstance(leaf, str) or abs(leaf) < 10**20]
    if not _may_hold_any("\n".join(texts)):
        return []
    findings: list[Finding] = []
    seen: set[str] = set()
    for n, text in enumerate(texts):
        number = bisect_right(starts, n) - 1
        for kind, found, severity in private_in(text):
            if found in seen:
                continue
            seen.add(found)
            rule = "personal" if severity == "advice" or kind in _PERSONAL else "secret"
            remedy = "replace it with a made-up value of the same shape"
            if rule == "secret":
                remedy += ", and revoke the secret"
            findings.append(Finding(row.where, rule, f"message {number}: {kind} ({_masked(found)})", severity, remedy))
    return findings


_PERSONAL = {"a Chinese identity number", "a US social security number", "a bank card number", "an IBAN"}


def _may_hold_any(text: str) -> bool:
    if "@" in text or "PRIVATE KEY" in text:
        return True
    written = text.encode("utf-8", "replace")
    if _KEY_RUN in written.translate(_KEY_LIKE) and any(mark in text for _, mark, _ in _KEY_PATTERNS):
        return True
    if "-" in text and _SSN_RUN in written.translate(_NUMBER_LIKE):
        return True
    numbers = written.translate(_NUMBER_LIKE, b" -()+")
    if _DIGIT_RUN in numbers and _LONG_NUMBER.search(text):
        return True
    return _IBAN_RUN.search(numbers) is not None


def private_in(text: str) -> Iterator[tuple[str, str, Severity]]:
    """Kind, value and severity of each secret or personal datum in a text."""
    for kind, mark, pattern in _KEY_PATTERNS:
        if mark in text:
            yield from ((kind, match, "warning") for match in pattern.findall(text))
    if "@" in text:
        yield from (
            ("an e-mail address", match, "advice") for match in _EMAIL.findall(text) if not _EXAMPLE_EMAIL.search(match)
        )
    numbers: list[str] = []
    for kind, pattern, valid in _NUMBERS:
        for match in pattern.findall(text):
            # One number is one finding: part of a card number is not a telephone number.
            if valid(match) and not any(match in number for number in numbers):
                numbers.append(match)
                yield kind, match, "advice" if kind == "a telephone number" else "warning"


def _is_chinese_id(number: str) -> bool:
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(number, weights, strict=False))
    return born.year >= 1850 and number[17].upper() == "10X98765432"[total % 11]


def _is_card(number: str) -> bool:
    digits = re.sub("[ -]", "", number)
    length, start = len(digits), int(digits[:4])
    issued = (
        (digits[0] == "4" and length in (16, 19))
        or (length == 16 and (51 <= start // 100 <= 55 or 2221 <= start <= 2720))
        or (length == 15 and start // 100 in (34, 37))
        or (length == 16 and (start == 6011 or start // 100 == 65 or 3528 <= start <= 3589))
        or (16 <= length <= 19 and start // 100 == 62)
        or (length == 14 and start // 100 in (30, 36, 38))
    )
    if not issued or len(set(digits)) < 2:
        return False
    doubled = [int(digit) * (1 + n % 2) for n, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _is_iban(found: str) -> bool:
    number = found.replace(" ", "")
    if not 15 <= len(number) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1


def _is_phone(found: str) -> bool:
    return not _EXAMPLE_PHONE.search(found) and 10 <= sum(character.isdigit() for character in found) <= 15


_NUMBERS = (
    ("an IBAN", _IBAN, _is_iban),
    ("a Chinese identity number", _CHINESE_ID, _is_chinese_id),
    ("a bank card number", _CARD, _is_card),
    ("a US social security number", _SSN, lambda found: found != "123-45-6789"),
    ("a telephone number", _PHONE, _is_phone),
)


def _masked(found: str) -> str:
    shown = " ".join(found.split())
    return f"{shown[:4]}...{shown[-2:]}, {len(shown)} characters"
