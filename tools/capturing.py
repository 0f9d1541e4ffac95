"""Keeping what a model finds in a conversation about its user, gated: most of what models propose is not worth it.

A fact is kept only with the user's own words for it, and only where those are about the user, no question, no request, no
text that was pasted, nothing that holds for a day, and no secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from cirkelline.configs.errors import CirkellineError
from cirkelline.state.memories import Origin
from cirkelline.tools import confidential
from cirkelline.tools.contract import ToolContext, tool
from cirkelline.tools.remembering import Heard, NotRemembered

KEEP_FACTS: Final = "keep_facts"
"""The name of the one tool of a run that looks for facts; no author needs it."""

LONGEST_FACT: Final = 200
_SENTENCE_ENDS: Final = ".!?\n"
_CLAUSE_ENDS: Final = ".!?\n,;:"
_LONGEST_QUOTE: Final = 400
_PASTED: Final = 1_500
"""Characters of a message from which on it is taken for a text that was pasted."""

# Who speaks of themselves says so, in any of these languages.
_SELF: Final = re.compile(
    r"\b(i|i'm|i've|i'd|i'll|me|my|mine|myself|we|we're|we've|us|our|ours"  # English
    r"|jeg|mig|min|mit|mine|vi|vores|os"  # Danish
    r"|ich|mir|mich|mein\w*|wir|uns|unser\w*"  # German
    r"|je|j'\w+|moi|mon|ma|mes|nous|notre|nos"  # French
    r"|yo|mi|mis|me|soy|tengo|vivo|trabajo|nosotros|nuestr\w+"  # Spanish
    r")\b",
    re.IGNORECASE,
)
_REQUEST: Final = re.compile(
    r"^\W*(?:(?:so|and|but|also|then|ok|okay|hi|hello|thanks)\W+)*(please|can you|could you|would you|will you|can i|could i|may i|help me|tell me|show me|give me|explain|write"
    r"|make|find|search|look up|list|summari[sz]e|translate|fix|how (do|can|should|would)|what|why|when|where|who|which"
    r"|i (want|need|would like|'d like|am trying|was wondering|wonder)( you)? to (know|see|find|understand|learn about|ask"
    r"|write|make|get|fix|build|create|draft|compare|calculate|check)|i'm trying to|i am trying to|let's|remind me)\b",
    re.IGNORECASE,
)
_ABOUT_THE_TALK: Final = re.compile(
    r"\b(asked|asks|asking|wants? to know|is looking for|looking for help|requested|requests?|inquir\w+|question\w*"
    r"|needs? help|seeks?|is curious about|conversation|the assistant|wants (a|an|the|some) (list|summary|example|answer"
    r"|translation|recipe|poem|email|script|code|table))\b",
    re.IGNORECASE,
)
_PASSING: Final = re.compile(
    r"\b(today|tonight|this (morning|afternoon|evening|week)|right now|at the moment|currently (at|in|on|out|waiting|reading"
    r"|debugging)|tomorrow|yesterday|just now|in an hour|in a minute|i dag|i morgen|i aften|heute|morgen|gestern|demain"
    r"|aujourd'hui|hoy|mañana|hungry|tired|bored|sleepy|thirsty|in a hurry|running late)\b",
    re.IGNORECASE,
)
# What stands behind it is somebody's text to be worked on.
_GIVEN_TEXT: Final = re.compile(
    r"^\W*(?:\w+\W+){0,4}?(translat\w+|summari[sz]\w+|rewrit\w+|proofread\w*|paraphras\w+|correct|improve|shorten|check|edit"
    r"|oversæt|übersetz\w*|tradu\w+)\b[^:\n]{0,80}[:\n]",
    re.IGNORECASE,
)
_UNREAL: Final = re.compile(
    r"\b(if i (were|was|had|lived)|imagine|pretend|suppose|let's say|for example|e\.g\.|hypothetical\w*|role ?play|in the story"
    r"|my character|(an|as an) example|a user (might|may|could|would)|just kidding|act as)\b",
    re.IGNORECASE,
)
# Whose a quote is that begins with somebody or something else: `my mother is in hospital` says nothing of one's own health.
_OF_ANOTHER: Final = re.compile(
    r"^\W*(?:(?:and|but|so|og|und|et|y)\W+)?(?:my|our|mine|min|mit|meine?|unsere?|mon|ma|mes|mis?)\W+(?!(?:name|job|work|home|age|birthday"
    r"|profession|navn|name|nom|nombre)\b)(\w+)",
    re.IGNORECASE,
)
_THEY: Final = re.compile(
    r"^\W*(?:and\W+)?(he|she|it|they|this|that|there|han|hun|den|det|er|sie|es|il|elle)\b", re.IGNORECASE
)
_NOT: Final = re.compile(
    r"\b(not|no|never|cannot|without|nobody|nothing|ikke|nicht|kein\w*|pas|nunca)\b|n['\u2019]t\b", re.IGNORECASE
)
_AGAINST: Final = re.compile(
    r"\b(dis\w+|hates?|avoid\w*|un\w+|free|stopped|quit|refus\w+|vegan|vegetarian)\b", re.IGNORECASE
)
_CALLED: Final = re.compile(r"\b(?:called|named) (\w)", re.IGNORECASE)
_OWN_NAME: Final = re.compile(r"^(?:the )?(?:user |person )?(?:is )?(?:called|named) (\w+)", re.IGNORECASE)
_SOMEBODY: Final = re.compile(
    r"\b(?:an?|the|my|our|two|three)\W+(?!name\b)(?:\w+\W+){1,3}(?:called|named)\b", re.IGNORECASE
)
_NAMES_ITSELF: Final = (
    r"\b(?:name is|name's|i'?m|i am|call me|called|hedder|jeg er|hei(?:ß|ss)e|ich bin|appelle|je suis|llamo|soy)\W+"
)
_LIVES: Final = re.compile(r"\b(lives?|living)\b", re.IGNORECASE)
_AT_HOME: Final = re.compile(
    r"\b(liv\w+|home|mov\w+|based|resid\w+|from|flat|house|apartment|rent\w*|bor|wohn\w*|hab\w+|viv\w+)\b",
    re.IGNORECASE,
)
_CODE: Final = re.compile(
    r"```|=>|\bdef \w+\(|\bSELECT\b.*\bFROM\b|[{};]\s*$|</\w+>|\w+\(\)|^\s*(import|from) \w+", re.MULTILINE
)


class Decision(StrEnum):
    """What becomes of a fact."""

    ADD = "add"
    UPDATE = "update"
    IGNORE = "ignore"


class Fact(BaseModel):
    """One fact as a model proposes it."""

    model_config = ConfigDict(extra="forbid")

    # First the words, then what they say: a small model that begins with the fact makes one up.
    quote: Annotated[str, Field(max_length=_LONGEST_QUOTE, description="The user's own words for it, copied exactly.")]
    fact: Annotated[
        str, Field(min_length=1, max_length=LONGEST_FACT, description="One short sentence: Lives in Aarhus.")
    ]
    decision: Annotated[Decision, Field(description="add, update or ignore")] = Decision.ADD
    replaces: Annotated[
        list[Annotated[int, Field(ge=1, le=2_147_483_647)]],
        Field(max_length=10, description="With update: the ids of the memories that are not true any more."),
    ] = []
    topics: Annotated[list[Annotated[str, Field(max_length=60)]], Field(max_length=4)] = []


class NotKept(CirkellineError):
    """A fact is not one that is kept; the sentence says why."""


@tool(name=KEEP_FACTS, effects="idempotent")
async def keep_facts(ctx: ToolContext, facts: Annotated[list[Fact], Field(max_length=20)]) -> str:  # noqa: D417
    """Keep the lasting facts that the user's messages say about the user; an empty list where there are none.

    Args:
        facts: The facts, each with the words that say it.
    """
    lines = [await _kept(ctx, fact) for fact in facts]
    return "\n".join(lines) or "nothing is kept"


async def _kept(ctx: ToolContext, fact: Fact) -> str:
    try:
        heard = gate(fact, ctx.memories.heard)
        if fact.decision is Decision.IGNORE:
            return f"ignored: {fact.fact}"
        said = fact.replaces if fact.decision is Decision.UPDATE else []
        replaces = [each for each in said if each in ctx.memories.shown]
        kept = await ctx.memories.remember(
            fact.fact, topics=fact.topics, replaces=replaces, origin=Origin.CAPTURED, message=heard
        )
    except (NotKept, NotRemembered) as refused:
        return f"not kept: {fact.fact} ({refused})"
    return f"{'known already' if kept.known else 'kept'}: [{kept.id}] {kept.memory}"


def gate(fact: Fact, heard: Sequence[Heard]) -> Heard:
    """Return the message in which the user says a fact. Raises: NotKept."""
    words = re.findall(r"\w+", fact.quote)
    quote = re.compile(r"\W+".join(map(re.escape, words)), re.IGNORECASE)
    found = [(each, match) for each in heard if (match := quote.search(each.content))] if len(words) > 1 else []
    if not found:
        raise NotKept("its quote is not in a message of the user's")
    message, match = found[-1]
    clause, sentence = (_around(message.content, match, ends) for ends in (_CLAUSE_ENDS, _SENTENCE_ENDS))
    if secret := confidential.secret_in(f"{fact.fact}\n{sentence}"):
        raise NotKept(f"it holds {secret}")
    for why, wrong in _faults(fact.fact, clause, sentence, message.content):
        if wrong:
            raise NotKept(why)
    return message


def _around(content: str, match: re.Match[str], ends: str) -> str:
    """Return the part of a text between two of these marks in which a match stands, with the mark that ends it."""
    begin = max(content.rfind(end, 0, match.start()) for end in ends) + 1
    after = [place for end in ends if (place := content.find(end, match.end())) >= 0]
    return content[begin : min(after, default=len(content)) + 1].strip()


def _faults(fact: str, clause: str, sentence: str, content: str) -> Iterable[tuple[str, bool]]:
    asked = clause.endswith("?") or bool(_REQUEST.search(clause)) or "please" in fact.lower().split()
    yield "it is a question or a request", asked
    yield "it is about this conversation", bool(_ABOUT_THE_TALK.search(fact))
    yield "it is not said of the user", not _SELF.search(sentence)
    yield (
        "it is from a text that was pasted",
        len(content) > _PASTED
        or bool(_CODE.search(content) or _GIVEN_TEXT.search(content))
        or _is_quoted(clause, content),
    )
    yield "it holds for a short time only", bool(_PASSING.search(fact) or _PASSING.search(clause))
    yield "it is not meant as a fact", bool(_UNREAL.search(sentence) or _UNREAL.search(content[:200]))
    yield "it is said of somebody else", _is_of_another(fact, clause)
    yield "it says something else than its quote", not _covered(fact, content) or _is_turned(fact, sentence)


def _is_of_another(fact: str, clause: str) -> bool:
    """Whether a clause is about somebody or something else, whom the fact does not name."""
    if _THEY.search(clause) or _THEY.search(fact):
        return True
    named = _OWN_NAME.search(fact)
    # `I have a dog called Bella` is nobody's own name, and `I'm called Bella` is.
    if named is not None and not re.search(_NAMES_ITSELF + named[1], _SOMEBODY.sub("", clause), re.IGNORECASE):
        return True
    other = _OF_ANOTHER.search(clause)
    return other is not None and other[1][:4].lower() not in fact.lower()


def _is_turned(fact: str, sentence: str) -> bool:
    """Whether a fact denies what the user says, affirms what the user denies, or says nothing that could be true."""
    if len(re.findall(r"\w+", fact)) < _FEWEST_WORDS:
        return True
    denied, denies = bool(_NOT.search(sentence)), bool(_NOT.search(fact))
    if denies != denied and (denies or not _AGAINST.search(fact)):
        return True
    named = _CALLED.search(fact)
    if named is not None and not named[1].isupper():
        return True
    return bool(_LIVES.search(fact)) and not _AT_HOME.search(sentence)


def may_tell(said: str) -> bool:
    """Whether a message may say something about its writer at all, so that a model is worth asking."""
    return len(said) <= _PASTED and bool(_SELF.search(said))


def _flat(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def _is_quoted(quote: str, content: str) -> bool:
    """Whether a quote stands in lines that are marked as somebody else's words."""
    marked = [line for line in content.splitlines() if line.lstrip().startswith((">", "|", '"', "“"))]
    return any(_flat(quote) in _flat(line) for line in marked)


# What a fact says in other words than the user did; the rest has to stand in the message.
_FREE: Final = frozenset(
    [
        "user",
        "users",
        "person",
        "their",
        "they",
        "them",
        "theirs",
        "who",
        "whom",
        "named",
        "called",
        "name",
        "lives",
        "live",
        "works",
        "work",
        "likes",
        "like",
        "prefers",
        "prefer",
        "wants",
        "want",
        "uses",
        "use",
        "owns",
        "own",
        "married",
        "partner",
        "wife",
        "husband",
        "job",
        "profession",
        "employer",
        "employed",
        "currently",
        "enjoys",
        "enjoy",
        "dislikes",
        "dislike",
        "hates",
        "allergic",
        "diet",
        "home",
        "based",
        "located",
        "years",
        "year",
        "old",
        "age",
        "born",
        "from",
        "moved",
        "moving",
        "plans",
        "planning",
        "studies",
        "learning",
        "speaks",
        "native",
        "language",
        "family",
        "child",
        "children",
        "kids",
        "does",
        "not",
        "with",
        "that",
        "this",
        "these",
        "have",
        "been",
        "has",
        "is",
        "are",
        "were",
        "was",
        "will",
        "and",
        "the",
        "for",
        "about",
        "into",
        "over",
        "because",
        "since",
        "also",
        "very",
    ]
)
_COVERED: Final = 0.5
_SHORTEST_NAME: Final = 3
_FEWEST_WORDS: Final = 2


def _covered(fact: str, content: str) -> bool:
    """Whether most of what a fact names stands in the message: names and numbers are not made up."""
    said = {word[:4] for word in re.findall(r"\w+", content.lower())}
    named = [word for word in re.findall(r"\w+", fact.lower()) if len(word) >= _SHORTEST_NAME and word not in _FREE]
    numbers = re.findall(r"\d+", fact)
    there = sum(word[:4] in said for word in named)
    return (not named or there >= _COVERED * len(named)) and all(number in content for number in numbers)
