"""A sentence encoder that is fine-tuned on the train side's outcomes before it encodes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from tqdm import tqdm

from router.cache_folder import cache_folder
from router.encoding.sentence_transformer import SentenceTransformerEncoder
from router.errors import RouterError
from router.staging import staged_folder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

WARM_UP = 0.1  # share of the steps over which the learning rate rises
WEIGHT_DECAY = 0.01
TEMPERATURE = 0.1  # of cosines, in the contrastive loss
HEAD_RATE = 50.0  # learning rate of the classifier's new layer, in those of the encoder


class FinetunedEncoder:
    """The encoder's weights, trained further on logged outcomes; kept in the cache.

    Queries that it learned from look easier than new ones, so the policy is tuned on queries that
    it never saw: on the validation side, or on a fold of the train side that is held out.

    encoder: where training starts.
    loss: "classifier": a linear layer on the vector predicts every candidate's score (binary cross-
        entropy, unobserved outcomes left out), as routers with a fine-tuned encoder do (RouteLLM's
        BERT, arXiv 2406.18665; Srivatsa et al., arXiv 2405.00467). "contrastive": within a batch,
        queries on which the candidates' scores differ alike are drawn together.
    epochs, learning_rate, batch_size: of AdamW, with linear warm-up and decay.
    random_state: seed of the order of queries and of the new layer.
    """

    learns = True

    def __init__(
        self,
        encoder: SentenceTransformerEncoder,
        loss: Literal["classifier", "contrastive"] = "classifier",
        epochs: int = 1,
        learning_rate: float = 5e-5,
        batch_size: int = 32,
        random_state: int = 0,
    ):
        if loss not in ("classifier", "contrastive"):
            raise RouterError(f"encoder.loss is {loss!r}; choose classifier or contrastive.")
        if min(epochs, batch_size) < 1 or not learning_rate > 0:
            raise RouterError(
                "encoder needs epochs and batch_size of at least 1 and learning_rate above 0."
            )
        self.encoder = encoder
        self.loss = loss
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.random_state = random_state
        self.tuned: SentenceTransformerEncoder | None = None

    def fit(self, texts: Sequence[str], scores: np.ndarray, observed: np.ndarray) -> None:
        """Learn from (n, m) scores where `observed`; a result that is in the cache is taken."""
        digest = hashlib.sha256(
            f"{self.encoder.weights_hash} {self.loss} {self.epochs} {self.learning_rate} "
            f"{self.batch_size} {self.random_state}".encode()
        )
        for text in texts:
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        targets = np.where(observed, scores, 0.0)
        digest.update(targets.tobytes() + np.ascontiguousarray(observed).tobytes())
        folder = cache_folder("encoders") / f"finetuned-{digest.hexdigest()[:32]}"
        if not folder.is_dir():
            with staged_folder(folder) as staged:
                self._finetune(list(texts), targets, observed, staged)
        start = self.encoder
        self.tuned = SentenceTransformerEncoder(
            str(folder), start.requested_dtype, start.device, start.max_tokens, start.batch_size
        )

    @property
    def identity(self) -> str:
        return self._fitted().identity

    @property
    def weights_hash(self) -> str:
        """See SentenceTransformerEncoder."""
        return self._fitted().weights_hash

    def load(self, dtype: str) -> SentenceTransformer:
        """See SentenceTransformerEncoder."""
        return self._fitted().load(dtype)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 vectors of unit length."""
        return self._fitted().encode(texts)

    def export(self) -> Path:
        """See SentenceTransformerEncoder."""
        return self._fitted().export()

    def _fitted(self) -> SentenceTransformerEncoder:
        if self.tuned is None:
            raise RouterError("This encoder was not fine-tuned yet; call fit on the train side.")
        return self.tuned

    def _finetune(
        self, texts: list[str], targets: np.ndarray, observed: np.ndarray, folder: Path
    ) -> None:
        import torch
        from sentence_transformers.util import batch_to_device

        torch.manual_seed(self.random_state)
        model = self.encoder.load("float32")
        dimension = model.encode([texts[0]], show_progress_bar=False).shape[1]
        layer = torch.nn.Linear(dimension, targets.shape[1])
        parameters = [
            {"params": model.parameters(), "lr": self.learning_rate},
            {"params": layer.parameters(), "lr": HEAD_RATE * self.learning_rate},
        ]
        optimiser = torch.optim.AdamW(parameters, weight_decay=WEIGHT_DECAY)
        batches = self._batches(texts)
        warm = max(1, round(WARM_UP * len(batches)))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: min(
                (step + 1) / warm, (len(batches) - step) / max(1, len(batches) - warm)
            ),
        )
        layer.to(model.device)
        model.train()
        for rows in tqdm(batches, "Fine-tuning", unit="batch", leave=False, disable=None):
            features = model.preprocess([texts[row] for row in rows])
            features = batch_to_device(features, model.device)
            vectors = torch.nn.functional.normalize(model(features)["sentence_embedding"], dim=1)
            y, seen = (
                torch.tensor(array[rows], dtype=torch.float32, device=model.device)
                for array in (targets, observed)
            )
            loss = (
                _classifier_loss(layer(vectors), y, seen)
                if self.loss == "classifier"
                else _contrastive_loss(vectors, y, seen)
            )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        model.eval()
        model.save(str(folder))

    def _batches(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Rows of every batch of every epoch: random batches of texts of about one length, which
        spares the encoder its padding."""
        rng = np.random.default_rng(self.random_state)
        lengths = np.array([len(text) for text in texts])
        batches = []
        for _ in range(self.epochs):
            order = np.argsort(lengths * rng.uniform(0.8, 1.25, len(lengths)))
            parts = np.array_split(order, max(1, round(len(order) / self.batch_size)))
            batches += [parts[i] for i in rng.permutation(len(parts))]
        return batches


def _classifier_loss(
    logits: torch.Tensor, scores: torch.Tensor, observed: torch.Tensor
) -> torch.Tensor:
    import torch

    return (
        torch.nn.functional.binary_cross_entropy_with_logits(
            logits, scores, weight=observed, reduction="sum"
        )
        / observed.sum()
    )


def _contrastive_loss(
    vectors: torch.Tensor, scores: torch.Tensor, observed: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy between two softmaxes over the other queries of the batch: of minus the mean
    difference in merit (score less the query's mean score), and of the vectors' cosines."""
    import torch

    level = scores.sum(dim=1, keepdim=True) / observed.sum(dim=1, keepdim=True).clamp(min=1)
    merit = (scores - level) * observed
    both = observed[:, None] * observed[None]
    distance = ((merit[:, None] - merit[None]).abs() * both).sum(dim=2)
    distance = distance / both.sum(dim=2).clamp(min=1)
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    wanted = torch.softmax((-distance / TEMPERATURE).masked_fill(own, -1e9), dim=1)
    cosine = (vectors @ vectors.T / TEMPERATURE).masked_fill(own, -1e9)
    return -(wanted * torch.log_softmax(cosine, dim=1)).sum(dim=1).mean()
