"""What was found, as tables of text for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..commands.report import markdown_table
from .comparing import Comparison
from .heatmap import short_names
from .masses import Masses
from .release import Release
from .words import NearWords


@dataclass(frozen=True)
class Table:
    """A title, a note of what the numbers are, and cells."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]

    def in_markdown(self) -> str:
        """For a terminal."""
        cells = [[cell.replace("|", r"\|") for cell in row] for row in self.rows]
        return "\n".join(filter(None, [self.title, self.note, markdown_table(self.head, cells)]))


def facts_table(release: Release) -> Table:
    """What a release is."""
    return Table("The prefix", "", ["", ""], [[key, value] for key, value in release.facts.items()])


def norms_table(release: Release) -> Table:
    """Shapes and norms, a row a site."""
    rows = []
    for site in release.sites:
        cells = [_spread(norms) for norms in site.norms()]
        gate = [] if site.gate is None else [f"{site.gate.abs().mean():.3f}"]
        rows.append([site.name, _shape(site.key), _shape(site.value), *cells, *gate])
    gates = ["mean |gate|"] if any(site.gate is not None for site in release.sites) else []
    head = ["site", "keys (G, P, D)", "values (G, P, D)", "norm of a key", "norm of a value", *gates]
    note = "Euclidean norms of one virtual token, all heads together: mean over tokens, least and greatest."
    return Table("Sites", note, head, rows)


def virtual_table(release: Release) -> Table:
    """Norms of each virtual token, means over sites."""
    count = max(site.key.shape[1] for site in release.sites)
    rows = []
    for j in range(count):
        having = [site.norms() for site in release.sites if site.key.shape[1] > j]
        means = [sum(float(norms[side][j]) for norms in having) / len(having) for side in (0, 1)]
        rows.append([str(j), *(f"{mean:.2f}" for mean in means)])
    head = ["virtual token", "norm of its key", "norm of its value"]
    return Table("Virtual tokens", "Euclidean norms, all heads together; means over sites.", head, rows)


def masses_table(masses: Masses) -> Table:
    """The prefix's share of the attention, a row a site."""
    rows = []
    for role in masses.roles:
        sites = masses.of_role(role)
        for name, mass in zip(short_names([mass.site.name for mass in sites]), sites, strict=True):
            heads, virtual = 100 * mass.heads, 100 * mass.virtual
            most, top = int(heads.argmax()), int(virtual.argmax())
            rows.append(
                [
                    role,
                    name,
                    f"{heads.mean():.1f}",
                    f"{heads.max():.1f} (head {most})",
                    f"{virtual.max():.1f} (token {top})",
                ]
            )
    note = "In percent of all attention, means over the text; what is left goes to the text itself."
    head = ["role", "layer", "to the prefix", "most of a head", "most to a virtual token"]
    return Table("Attention to the prefix", note, head, rows)


def words_table(found: Sequence[NearWords]) -> Table:
    """The nearest words of each virtual token, and whether they are near."""
    rows = [
        [
            str(j),
            "  ".join(f"{word.text!r} {word.key_cosine:.2f}/{word.value_cosine:.2f}" for word in near.words),
            f"{near.median:.2f}",
        ]
        for j, near in enumerate(found)
    ]
    note = (
        "At the first layer that attends, each word read alone: cosine of keys / of values, ranked by their mean. The "
        "last column has the median of it over the vocabulary: a word is near where it is close to 1 and far above."
    )
    return Table("Nearest words", note, ["virtual token", "nearest words", "median word"], rows)


def comparison_tables(comparison: Comparison, ours: str, theirs: str) -> list[Table]:
    """By site, and by virtual token."""
    sites = [
        [site.name, *map(_number, (site.key_cosine, site.key_distance, site.value_cosine, site.value_distance))]
        for site in comparison.sites
    ]
    note = f"A is {ours}, B is {theirs}. Distances are ||A - B|| / ||A||."
    by_site = Table(
        "Compared by site", note, ["site", *(f"{n} of {of}" for of in ("keys", "values") for n in COMPARED)], sites
    )
    tokens = [
        [str(j), *map(_number, numbers), str(int(near)), _number(cosine)]
        for j, (*numbers, near, cosine) in enumerate(
            zip(
                comparison.key_cosine, comparison.value_cosine, comparison.distance, comparison.nearest,
                comparison.nearest_cosine, strict=True,
            )
        )
    ]  # fmt: skip
    note = "Means over sites. Attention knows no order of virtual tokens: the nearest one of B may be another."
    head = ["virtual token", "cosine of keys", "cosine of values", "distance", "nearest of B", "its mean cosine"]
    return [by_site, Table("Compared by virtual token", note, head, tokens)]


COMPARED = ("cosine", "distance")


def _number(number: float | Tensor) -> str:
    return f"{float(number):.3f}"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _spread(numbers: Tensor) -> str:
    return f"{numbers.mean():.2f} ({numbers.min():.2f} to {numbers.max():.2f})"
