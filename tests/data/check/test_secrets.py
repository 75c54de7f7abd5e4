"""Secrets and personal data: each kind is found and never shown in full, and similar texts are not reported."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.data.check.secrets import private_findings, private_in
from toolhone.records import Conversation, Message, ToolCall


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("sk-" + "ant-" + "aB3d" * 8, "an Anthropic key"),
        ("sk-abcdefghijklmnopqrstuvwxyz012345", "an OpenAI key"),
        ("sk-svcacct-AbCd_EfGh-IjKlMnOpQrStUvWxYz0123", "an OpenAI key"),
        ("ghp_" + "a1B2" * 9, "a GitHub token"),
        ("glpat-abcdefghij0123456789", "a GitLab token"),
        ("xoxb-123456789012-abcdefghij", "a Slack token"),
        ("sk_live_" + "a1B2" * 6, "a Stripe key"),
        ("hf_" + "aBcD" * 9, "a Hugging Face token"),
        ("AIza" + "a1B2c" * 7, "a Google API key"),
        ("LTAI5tAbCdEfGhIjKlMnOp", "an Alibaba Cloud key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc123DEF456-_ghi", "a JSON Web Token"),
        ("11010519491231002X", "a Chinese identity number"),
        ("536-22-1234", "a US social security number"),
        ("4242424242424242", "a bank card number"),
        ("3782 822463 10005", "a bank card number"),
        ("6222021234567890128", "a bank card number"),
        ("GB29 NWBK 6016 1331 9268 19", "an IBAN"),
        ("DE89370400440532013000", "an IBAN"),
        ("jane.doe+x@mail.acme.co.uk", "an e-mail address"),
        ("13812345678", "a telephone number"),
        ("+86 138 1234 5678", "a telephone number"),
        ("(415) 866-2671", "a telephone number"),
    ],
)
def test_each_kind_is_found_in_a_sentence_and_never_shown_in_full(text: str, kind: str) -> None:
    for sentence in (text, f"it is {text}, thanks", f"号码是{text}。"):
        assert kind in {found for found, _, _ in private_in(sentence)}
        row = Conversation("r", (Message("user", sentence),), (), "w:1")
        messages = [finding.message for finding in private_findings(row)]
        assert any(kind in message for message in messages)
        assert not any(text in message for message in messages)


@pytest.mark.parametrize(
    "text",
    [
        "11010519491231002Y",
        "110105194912310021",  # the check character is X
        "110105194913310029",  # no such month
        "4242424242424241",  # Luhn
        "1234567890123452",  # valid by Luhn, but no issuer has the prefix
        "000-12-3456",
        "666-12-3456",
        "536-00-1234",
        "123-45-6789",
        "DE89370400440532013001",
        "order 7741902 and 407520646",
        "SF1098234476",
        "parcel YT5567012348, JD0031188274",
        "2024-05-02 10:30:00",
        "jane@example.com",
        "someone@host.invalid",
        "555-0123",
        "sk-learn and sk-image",
        "the eyJ prefix",
        "AKIA is a prefix",
        "1.23456789012345678",
        "https://acme.org/a/very/long-path-with-words_and_more/index.html",
    ],
)
def test_a_text_that_only_looks_like_a_secret_is_not_found(text: str) -> None:
    row = Conversation("r", (Message("user", text), Message("assistant", f"so: {text}")), (), "w:1")
    assert private_findings(row) == []


@pytest.mark.parametrize("kind", ["an e-mail address", "a telephone number"])
def test_e_mail_addresses_and_telephone_numbers_are_advice(kind: str) -> None:
    texts = {"an e-mail address": "a@acme.com", "a telephone number": "13812345678"}
    assert {severity for _, _, severity in private_in(texts[kind])} == {"advice"}


def test_a_value_inside_arguments_is_reported_once_per_row() -> None:
    card = "4242 4242 4242 4242"
    turn = Message("assistant", "", (ToolCall("f", {"pay": [{"card": card}]}),))
    row = Conversation("r", (Message("user", f"pay with {card}"), turn), (), "w:1")
    assert [finding.message[:9] for finding in private_findings(row)] == ["message 0"]
    row = Conversation("r", (Message("user", "pay"), turn), (), "w:1")
    assert [finding.message[:9] for finding in private_findings(row)] == ["message 1"]


@given(st.text(), st.sampled_from(["4242424242424242", "a@acme.com", "13812345678", "ghp_" + "a1B2" * 9]))
def test_a_secret_is_found_in_any_text_and_every_found_value_is_in_the_text(text: str, secret: str) -> None:
    assert all(value in text for _, value, _ in private_in(text))
    assert secret in {value for _, value, _ in private_in(f"{text} | {secret} | {text}")}
