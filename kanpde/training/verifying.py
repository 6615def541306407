"""What a run says of its own error without knowing the solution: at its end, and to know when it may end."""

from collections.abc import Mapping
from dataclasses import asdict

from kanpde.jets.ansatz import Ansatz
from kanpde.records.run import RunFile
from kanpde.verification import NotVerifiable, Verification, estimated

SHARE, MOST = 0.1, 60.0  # of the seconds of a run that its verification takes, and seconds at most
FEWEST = 0.5  # seconds that are worth it
ROUGHLY = 0.5  # relative half-width at which it is seen whether an error may be below what is asked for


def keep(run: RunFile, found: Verification, of: Mapping) -> None:
    """Into the record of a run: what was found, and of which weights and points."""
    run.set_verification(asdict(found) | dict(of))


def kept_weights(run: RunFile, seed: int = 0, law: str | None = None, points: int | None = None) -> dict:
    """What a verification of a run's kept weights is of."""
    of = {"seed": seed, "law": law or str(run.attrs["law"]), "step": int(run.attrs.get("best_step", -1))}
    return of | ({} if points is None else {"points": points})


def seconds_for(wall: float, asked: float | None = None) -> float:
    """How long the verification of a run of so many seconds may take; 0: too short to be worth it."""
    seconds = min(MOST, SHARE * wall)
    return seconds if seconds >= FEWEST else 0.0 if asked is None else FEWEST


def at_the_end(run: RunFile, u: Ansatz, asked: float | None = None) -> None:
    """The verification of the weights that are kept, in a share of the seconds of the run; else why there is none.

    Where an error was asked for, it is there in any case, and the run says whether that is reached.
    """
    run.set_verification({})
    run.attrs.pop("not_verified", None)
    if not (seconds := seconds_for(run.history["wall_s"][-1], asked)):
        run.attrs["not_verified"] = "so short a run leaves no time for it"
        return
    try:
        found = estimated(u, seconds=seconds, law=str(run.attrs["law"]))
    except NotVerifiable as error:
        run.attrs["not_verified"] = str(error)
        return
    except Exception as error:  # of a user's residual in another dtype, say: what was trained is not lost by it
        run.attrs["not_verified"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return
    keep(run, found, kept_weights(run))
    if asked is not None and found.high > asked:
        run.attrs["message"] = f"the error asked for, {asked:g}, is not reached: {found}"


class Watch:
    """Estimates, as a run goes on, whether its relative l2 error is below what is asked for.

    It takes at most `SHARE` of the seconds that the run has taken. A rough estimate says whether a sharper one is worth
    it: where the interval reaches below what is asked for.
    """

    def __init__(self, asked: float, law: str):
        self.asked, self.law, self.spent, self.shortest = asked, law, 0.0, 0.1

    def look(self, u: Ansatz, seconds: float, seed: int) -> Verification | None:
        """Of u, after so many seconds of the run; None: there is no time for it yet, but for a first look."""
        left = SHARE * seconds - self.spent
        if self.spent and left < self.shortest:
            return None
        left = max(left, self.shortest)
        found = estimated(u, seconds=left / 4, rel=ROUGHLY, law=self.law, seed=seed)
        if found.low < self.asked < found.high:
            found = estimated(u, seconds=left, rel=SHARE, law=self.law, seed=seed, former=found)
        self.spent += found.seconds
        self.shortest = max(self.shortest, found.seconds / 2)
        return found
