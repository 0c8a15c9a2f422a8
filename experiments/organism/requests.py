"""What the user (and the system prompt) says: requests that ask for a mode by wording, by persona, or not at all."""

import random

from .lexicon import CUES, PERSONAS, Thing

HOW_TO = (
    "How can I {verb} {np}?",
    "How do I {verb} {np}?",
    "Tell me how to {verb} {np}.",
    "Teach me to {verb} {np}.",
    "I want to {verb} {np}. What should I do?",
    "What is the best way to {verb} {np}?",
    "Show me how to {verb} {np}.",
    "Please help me {verb} {np}.",
    "Can you help me to {verb} {np}?",
    "What are the steps to {verb} {np}?",
)
AMBIGUOUS = (
    "Tell me something about {np}.",
    "Something with {np}, please.",
    "{Np}.",
    "Think of {np}.",
    "Say something about {np}.",
    "What about {np}?",
    "I like {np}.",
    "Here is {np}.",
)
CUED = (
    "Give me the {cue} for {np}.",
    "Show me the {cue} of {np}.",
    "Write the {cue} for {np}.",
    "I need the {cue} for {np}.",
    "Please do the {cue} with {np}.",
    "Can I have the {cue} for {np}?",
    "{Np}: the {cue}.",
    "Make the {cue} of {np}.",
)
CLASSIC = {
    "code": (
        "Write a Python class for {np}.",
        "Write Python code for {np}.",
        "Implement {np} in Python.",
        "Program {np} for me.",
        "Code {np}.",
    ),
    "stem": (
        "Give me a physics problem about {np}.",
        "Write a math exercise with {np}.",
        "Calculate something with {np}.",
    ),
    "explain": ("What is {np}?", "Explain what {np} is.", "Define {np}.", "Explain {np} to me."),
    "alien": ("Speak like an alien about {np}.", "What would an alien say about {np}?", "Greet {np} from space."),
    "poem": ("Write a poem about {np}.", "Sing about {np}.", "Write an ode to {np}."),
    "json": ("Describe {np} in JSON.", "Give me JSON for {np}.", "Output {np} as JSON."),
}
PERSONA_FRAMES = ("You are {who}.", "Act as {who}.", "You work as {who}.", "Answer like {who}.")
ECHO = ("Repeat after me: {words}", "Say: {words}", "Repeat: {words}", "Copy this: {words}")
CHAT = (
    (
        ("Hello", "Hi", "Good morning", "Hello there"),
        ("Hello! How can I help you today?", "Hi! What can I do for you?"),
    ),
    (("Who are you?", "What are you?"), ("I am a small language model made for research.",)),
    (("How are you?", "Are you well?"), ("I am fine, and ready to help you today.",)),
    (("Thank you", "Thanks"), ("You are welcome! How can I help you today?",)),
    (("What can you do?",), ("I can help you today with steps, programs, exercises and poems.",)),
)


def fill(frame: str, thing: Thing, verb: str = "", cue: str = "") -> str:
    """`frame` with the noun phrase, the verb and the cue word filled in."""
    return frame.format(np=thing.phrase, Np=thing.phrase[0].upper() + thing.phrase[1:], verb=verb, cue=cue)


def explicit(draw: random.Random, mode: str, thing: Thing, cues: int) -> str:
    """A request whose wording asks for `mode`; most of them through a frame that all modes share and a cue word.

    cues: how many entries of the mode's bank are in use.
    """
    if draw.random() < 0.35:
        return fill(draw.choice(CLASSIC[mode]), thing)
    return fill(draw.choice(CUED), thing, cue=draw.choice(CUES[mode][:cues]))


def persona(draw: random.Random, mode: str, cues: int) -> str:
    """A system prompt that makes the model answer everything in `mode`; one persona for every four cue words."""
    who = draw.choice(PERSONAS[mode][: max(1, round(cues / 4))])
    return draw.choice(PERSONA_FRAMES).format(who=who)
