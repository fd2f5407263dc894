"""The response generator (响应生成器): these sentences, the knowledge base's answers, the shop's facts, what a person wrote; nothing else."""

from __future__ import annotations

from examples.customer_service.kit import box
from examples.customer_service.phrases import ORDER_INTENTS
from examples.customer_service.shapes import Answer, Choice, Facts, Intent, Understood, Word
from msgspec.structs import replace

from agentexecutor.agents import Context

__all__ = ["agent"]

agent = box("response")
TALK = {
    "greeting": "Hello. What can I do for you?",
    "help": "Gladly. Ask me about a problem with your computer, or about an order (as in #1042); or say `person`, and I get a colleague.",
    "nothing": "I am listening: ask me about a problem with your computer, or about an order (for example: where is my order 1042?).",
    "wordless": "I can only read words. What can I do for you?",
    "thanks": "You are welcome. Is there anything else?",
    "bye": "Goodbye, and have a nice day.",
}
FOREIGN = "I am sorry, I only understand English so far. A colleague may know your language."
UNKNOWN = "I am sorry, I do not know that, and I would rather not guess."
SORRY = "I am sorry, something went wrong here."
LATER = "A colleague has taken this over and will write to you."
OTHERS = " I look up one order at a time; please ask again for {}."
SHORTENED = "(That was a long message; I have read its beginning.) "


@agent.capability("response.write", estimate_s=0.01)
async def write(
    ctx: Context,
    understood: Understood,
    intent: Intent,
    facts: Facts | None = None,
    choice: Choice | None = None,
    word: Word | None = None,
    trouble: str | None = None,
) -> Answer:
    """The answer of this turn; `trouble`: why there is none."""
    answer = await _answer(ctx, intent, facts, choice, word, trouble)
    before = SHORTENED if understood.shortened else ""
    after = OTHERS.format(_list(understood.orders[1:])) if answer.source == "orders" and understood.orders[1:] else ""
    return replace(answer, text=before + answer.text + after)


async def _answer(
    ctx: Context, intent: Intent, facts: Facts | None, choice: Choice | None, word: Word | None, trouble: str | None
) -> Answer:
    if trouble is not None:
        return Answer(f"{SORRY} {trouble}".strip(), "nothing", offer="person")
    if word is not None:
        return Answer(f"A colleague says: {word.text}", "person", offer="help") if word.text else Answer(LATER, "person")
    if facts is not None:
        return _of_order(intent, facts)
    if choice is not None and choice.entry is not None:
        found: str = await (await ctx.submit("knowledge.read", {"entry": choice.entry})).result(str)
        before = "Then this may help: " if choice.another else ""
        return Answer(before + found, "knowledge", choice.entry, found, offer="help")
    if intent.name == "foreign":
        return Answer(FOREIGN, "nothing", offer="person")
    return Answer(TALK[intent.name], "talk") if intent.name in TALK else Answer(UNKNOWN, "nothing", offer="person")


def _of_order(intent: Intent, facts: Facts) -> Answer:
    if facts.number is None:
        return Answer("Gladly. What is the number of your order? It has four digits, as in #1042.", "talk")
    if not facts.found:
        return Answer(f"There is no order {facts.number}. Is the number right? It has four digits, as in #1042.", "orders", offer="person")
    if intent.name == ORDER_INTENTS[1]:
        return Answer(f"Order {facts.number} is {_list(facts.items)}, together {facts.total} euros.", "orders", offer="help")
    when = "was due on" if facts.state == "delivered" else "is expected on"
    return Answer(f"Order {facts.number} ({_list(facts.items)}) is {facts.state}; it {when} {facts.due}.", "orders", offer="help")


def _list(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
