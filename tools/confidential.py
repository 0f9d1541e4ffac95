"""What must not be remembered of what people say: passwords, keys, card and account numbers."""

from __future__ import annotations

import re
from typing import Final

from cirkelline.configs import secrecy

# Said, not only mentioned: "password is hunter2" and not "lost the password".
_PASSWORD: Final = re.compile(
    r"\b(passwords?|pass ?phrase|pass ?code|pin( code)?|secret( key)?|api[ -]?key|access token|cvv|cvc|security code|kodeord"
    r"|adgangskode|passwort|mot de passe|contrase(ñ|n)a)\b.{0,40}?(\bis\b|\bwas\b|\ber\b|\bist\b|\best\b|\bes\b|[:=])\s*\S",
    re.IGNORECASE,
)
_DIGITS: Final = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_ACCOUNT: Final = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_RANDOM: Final = re.compile(r"(?<![\w/.-])(?=[\w+/=-]*\d)(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])[\w+/=-]{24,}")
_LUHN_DOUBLED_OVER: Final = 9


def secret_in(text: str) -> str | None:
    """Return what kind of secret a text holds, in words that follow `it holds`; None where there is none."""
    if secrecy.looks_secret(text) or _RANDOM.search(text):
        return "what looks like a key or a token"
    if _PASSWORD.search(text) or any(secrecy.has_password(word) for word in text.split() if "://" in word):
        return "a password or a code"
    if any(_is_card(match.group()) for match in _DIGITS.finditer(text)):
        return "a card number"
    return "an account number" if _ACCOUNT.search(text) else None


def _is_card(number: str) -> bool:
    digits = [int(digit) for digit in number if digit.isdigit()][::-1]
    doubled = (2 * digit - 9 if 2 * digit > _LUHN_DOUBLED_OVER else 2 * digit for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
