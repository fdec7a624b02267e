"""Questions whose documents are hidden among many others."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from longattn.evals.questions import Question, Questions
from longattn.evals.tasks import (
    SHORT,
    DoesNotFitError,
    Draft,
    Materials,
    NeedsMaterialError,
    Sample,
    Task,
    fitted,
    largest,
)

STEP = 10
"""Documents that RULER begins with, and takes away at a time."""


@dataclass(frozen=True, kw_only=True)
class QA(Task):
    """Questions in the order of their file; any of a question's answers will do."""

    metric: ClassVar[Literal["all", "part", "every"]] = "part"

    max_new_tokens: int = 32
    questions: Literal["squad", "hotpot"] = "squad"
    whole_context: bool = True
    """Whether all documents that come with a question are in its prompt, or only those that it needs."""

    def smaller(self) -> Iterator["QA"]:
        """With no more of a question's own documents than it needs."""
        if self.questions == "hotpot":
            yield replace(self, whole_context=False)

    def samples(self, materials: Materials, length: int, count: int, seed: int) -> tuple[list[Sample], int, int]:
        """See :meth:`Task.samples`. A question whose own documents do not fit is passed over."""
        asked = materials.squad if self.questions == "squad" else materials.hotpot
        if asked is None:
            kind, option = ("SQuAD 2.0", "squad") if self.questions == "squad" else ("HotpotQA", "hotpot")
            raise NeedsMaterialError(
                f"{self.name} takes its questions from a file in the format of {kind}: name one (--{option}), or take "
                "made-up ones (--made-up-questions), whose scores say little"
            )
        writer = _Writer(self, materials, asked, random.Random(seed), seed)
        reserved = self.reserve(length, materials, asked.questions[0].answers[:1])
        free = length - reserved
        size = self._size(writer, length, free)
        samples: list[Sample] = []
        skipped = 0
        for question in asked.questions:
            if len(samples) == count:
                break
            own = len(writer.own(question))
            try:
                draft, tokens = fitted(
                    lambda documents, question=question: writer.draft(question, documents),
                    materials,
                    max(size, own),
                    free,
                    step=STEP if length >= SHORT else 1,
                    least=own,
                )
            except DoesNotFitError:
                skipped += 1
                continue
            samples.append(draft.sample(len(samples) + skipped, tokens + reserved))
        if not samples:
            raise DoesNotFitError(f"none of the {len(asked.questions)} questions of {asked.name} does")
        return samples, reserved, skipped

    def _size(self, writer: "_Writer", length: int, free: int) -> int:
        """Documents of the first question that fits with its own documents alone, found as RULER finds it."""
        for question in writer.asked.questions:

            def size(documents: int, question: Question = question) -> int:
                return writer.size(question, documents)

            own = len(writer.own(question))
            try:
                per_document = size(max(STEP, own)) / STEP
                return largest(size, free, step=STEP, estimate=int(length / per_document * 3), least=own)
            except DoesNotFitError:
                continue
        raise DoesNotFitError(f"none of the {len(writer.asked.questions)} questions of {writer.asked.name} does")


@dataclass(frozen=True)
class _Writer:
    task: QA
    materials: Materials
    asked: Questions
    rng: random.Random
    seed: int

    def own(self, question: Question) -> tuple[int, ...]:
        """The documents that a question cannot do without."""
        return question.documents if self.task.whole_context else question.needed or question.documents

    def size(self, question: Question, documents: int) -> int:
        return self.materials.size(self.draft(question, documents))

    def draft(self, question: Question, documents: int) -> Draft:
        """A question on so many documents."""
        all_documents, own, more = self.asked.documents, self.own(question), question.more
        if documents < len(all_documents):
            wanted = documents - len(own)
            if wanted > len(more):
                known = {*own, *more}
                others = [i for i in range(len(all_documents)) if i not in known]
                chosen = [*own, *more, *self.rng.sample(others, wanted - len(more))]
            else:
                chosen = [*own, *self.rng.sample(more, wanted)]
        else:
            # all of them, from the beginning again as often as it takes
            chosen = [i % len(all_documents) for i in range(documents)]
        texts = [all_documents[i] for i in chosen]
        random.Random(self.seed).shuffle(texts)
        wording = self.materials.wording
        context = "\n\n".join(
            wording.document.format(i=i, document=document) for i, document in enumerate(texts, start=1)
        )
        fields = {"context": context, "query": question.query}
        return Draft(wording.qa.task.format(**fields), wording.qa.prefix.format(**fields), question.answers)
