"""The section `slices` of a study file: where the lesion-free brains come from, one kind of section per source."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pretrain_xai.settings.sections import Seed, Settings


def _counts_or_shares(subjects: dict[str, Any]) -> dict[str, Any]:
    """Check numbers of subjects (whole numbers from 1), or shares of all subjects (more than 0, at most 1 together)."""
    if not subjects or min(subjects.values()) <= 0:
        raise ValueError(f"every split needs a number above 0, found {subjects}")
    if is_shares(subjects) and sum(subjects.values()) > 1.000001:  # shares are written with few digits
        raise ValueError(f"shares must sum to at most 1, found {sum(subjects.values()):g}; whole numbers are counts")
    return subjects


def is_shares(subjects: dict[str, Any]) -> bool:
    """Return whether splits are given as shares of all subjects, not as counts."""
    return any(isinstance(value, float) for value in subjects.values())


#: subjects of each split, or their shares
Subjects = Annotated[dict[str, int] | dict[str, float], AfterValidator(_counts_or_shares)]
Count = Annotated[int, Field(gt=0)]
#: lowest and highest axial position
Range = Annotated[list[float], Field(min_length=2, max_length=2)]
#: height and width of all slices, pixels
Shape = Annotated[list[Annotated[int, Field(ge=16, le=1024)]], Field(min_length=2, max_length=2)]


class _OfSubjects(Settings):
    """Sources that are told how many subjects each split gets."""

    #: as counts (subjects that are left over stand in for those whose files are broken) or as shares of all
    subjects: Subjects
    #: of the simulation, or what decides which subject belongs to which split
    seed: Seed = 0

    @property
    def splits(self) -> set[str]:
        """The splits that get slices."""
        return set(self.subjects)


class Template(_OfSubjects):
    """A cohort simulated from the MNI152 template."""

    source: Literal["template"]
    subjects: dict[str, Count]
    slices_per_subject: Count
    #: mm above the anterior commissure
    z_range: Range


class Participants(Settings):
    """The table of subjects (`.tsv`, or `.csv` with commas), and what its columns are called there."""

    #: in `folder`, or absolute
    file: str = "participants.tsv"
    subject: str = "participant_id"
    sex: str = "sex"
    #: years, or a range such as 26-30, which counts as its middle; none: the table has no age
    age: str | None = "age"


class Files(_OfSubjects):
    """What files of a folder have in common, one or more of each subject."""

    #: from the folder of studies/, or absolute; ~ is your home
    folder: str
    #: the files in `folder`; {subject} stands for the subject's name, other names in braces for anything, ** for any folders
    pattern: str = Field(pattern=r"\{subject\}")
    participants: Participants = Participants()
    #: a slice is used if at least this share of its pixels is brain
    min_brain_share: float = Field(0.1, ge=0, lt=1)
    #: brains are centred in slices of this shape; none: the largest height and width there are
    shape: Shape | None = None


class Nifti(Files):
    """Volumes of real brains, skull-stripped (background 0) or with masks."""

    source: Literal["nifti"]
    #: the brain mask of each volume; the names in braces stand for what they stand for in `pattern`
    mask: str | None = None
    #: none: from the lowest to the highest slice with enough brain
    z_range: Range | None = None
    #: mm of the volume's own coordinates, or share of the way from the lowest to the highest slice with brain
    z_unit: Literal["mm", "share"] = "mm"
    #: evenly spaced; none: all
    slices_per_volume: Count | None = None


class Arrays(Files):
    """2-D arrays in `.npy` or `.npz` files: a slice, or a stack of slices of shape (n, height, width)."""

    source: Literal["arrays"]


class Pickle(Settings):
    """The authors' slice pickles, each a `(slices, sex, age)`, which are read without executing anything in them."""

    source: Literal["pickle"]
    #: from the folder of studies/, or absolute; ~ is your home
    folder: str
    #: of each file, which share of its subjects goes to which splits
    files: dict[str, Annotated[dict[str, float], AfterValidator(_counts_or_shares)]] = Field(min_length=1)
    #: at most so many slices of a split, drawn at random
    max_slices: dict[str, Count] = Field(default_factory=dict)
    min_brain_share: float = Field(0.0, ge=0, lt=1)
    shape: Shape | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _known_splits(self) -> "Pickle":
        if unknown := set(self.max_slices) - self.splits:
            raise ValueError(f"max_slices: no file gives slices to {', '.join(sorted(unknown))}")
        return self

    @property
    def splits(self) -> set[str]:
        """The splits that get slices."""
        return set().union(*self.files.values())


#: the section of a study file, told by its `source`
Slices = Annotated[Template | Nifti | Pickle | Arrays, Field(discriminator="source")]
