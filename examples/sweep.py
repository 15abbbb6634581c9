"""Which settings of which model recognise handwritten digits best? A sweep with scikit-learn, cross-validated.

    python examples/sweep.py --jobTree sweeping --heatMap sweep.png

Two settings are varied for each of two models. A target fits one model with one pair of settings, and scores it on one
fold of the data. No target writes a file: scores are promises, and the result of the run is the best model, fitted.
"""

import argparse
import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.svm import SVC

from jobtree import Stack, Target

FOLDS = 5


class Grid(NamedTuple):
    """A model, and the values that two of its settings are to have: the rows and the columns of its heat map."""

    model: Any
    settings: dict[str, list[Any]]

    def models(self) -> list[Any]:
        """The model with every pair of the values."""
        pairs = itertools.product(*self.settings.values())
        return [clone(self.model).set_params(**dict(zip(self.settings, pair))) for pair in pairs]


class Best(NamedTuple):
    """What was found: the best model, its mean score, and the mean scores of all, in the order of the grids."""

    model: Any
    score: float
    means: list[float]


class Sweep(Target):
    """The first target: has every model scored on every fold, and then the best one chosen."""

    def __init__(self, grids: list[Grid]) -> None:
        Target.__init__(self, memory="500M")
        self.grids = grids

    def run(self) -> Any:
        models = [model for grid in self.grids for model in grid.models()]
        scores = [[self.addChildTarget(Score(m, fold)).rv() for fold in range(FOLDS)] for m in models]
        return self.setFollowOnTarget(Choose(models, scores)).rv()


class Score(Target):
    """Fits a model on all folds but one, and returns how much of that one it gets right."""

    def __init__(self, model: Any, fold: int) -> None:
        Target.__init__(self, memory="500M")
        self.model = model
        self.fold = fold

    def run(self) -> float:
        images, _, digits, _ = data()
        train, test = list(StratifiedKFold(FOLDS).split(images, digits))[self.fold]
        return float(self.model.fit(images[train], digits[train]).score(images[test], digits[test]))


class Choose(Target):
    """The follow-on of Sweep. It was given promises and has scores; it fits the best model on all folds together."""

    def __init__(self, models: list[Any], scores: list[list[Any]]) -> None:
        Target.__init__(self, memory="500M")
        self.models = models
        self.scores = scores

    def run(self) -> Best:
        means = [sum(scores) / FOLDS for scores in self.scores]
        score = max(means)
        images, _, digits, _ = data()
        return Best(self.models[means.index(score)].fit(images, digits), score, means)


@functools.cache  # a worker runs many targets and reads them once
def data() -> Any:
    """Images and digits: for the sweep, and a quarter that it never sees, in the order of train_test_split."""
    images, digits = load_digits(return_X_y=True)
    return train_test_split(images, digits, test_size=0.25, stratify=digits, random_state=0)


def all_grids(steps: int) -> list[Grid]:
    """Support vectors and random forests, with so many values for each setting."""
    penalties, widths = np.geomspace(0.1, 100, steps).tolist(), np.geomspace(1e-5, 1e-1, steps).tolist()
    trees, depths = (
        np.geomspace(5, 100, steps, dtype=int).tolist(),
        np.linspace(2, 12, steps, dtype=int).tolist(),
    )
    forest = RandomForestClassifier(random_state=0)
    return [
        Grid(SVC(), {"C": penalties, "gamma": widths}),
        Grid(forest, {"n_estimators": trees, "max_depth": depths}),
    ]


def draw(grids: list[Grid], means: list[float], path: str) -> None:
    """A heat map for each model: the mean score by its two settings."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    numbers = iter(means)
    for axes, (model, settings) in zip(figure.subplots(1, len(grids)), grids):
        (row, ys), (column, xs) = settings.items()
        scores = np.array([[next(numbers) for _ in xs] for _ in ys])
        image = axes.imshow(scores, vmin=0, vmax=1, origin="lower")
        axes.set_yticks(range(len(ys)), [f"{value:.2g}" for value in ys])
        axes.set_xticks(range(len(xs)), [f"{value:.2g}" for value in xs])
        axes.set(title=type(model).__name__, ylabel=row, xlabel=column)
        for (y, x), score in np.ndenumerate(scores):
            axes.text(
                x, y, f"{score:.3f}", ha="center", va="center", color="black" if score > 0.6 else "white"
            )
    figure.colorbar(image, ax=figure.axes, label=f"mean accuracy on {FOLDS} folds")
    figure.savefig(path, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=6, help="values of each setting; default: 6")
    parser.add_argument("--heatMap", default="sweep.png", help="where the picture goes; default: sweep.png")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    grids = all_grids(options.steps)
    stack = Stack(Sweep(grids))
    if stack.startJobTree(options):
        raise SystemExit(1)
    best: Best = stack.result()
    _, images, _, digits = data()
    print(f"best: {best.model}")
    print(
        f"accuracy: {best.score:.4f} in the sweep, {best.model.score(images, digits):.4f} on images never seen"
    )
    draw(grids, best.means, options.heatMap)


if __name__ == "__main__":
    main()
