"""Reading a study back."""

from __future__ import annotations

import pytest

from dse.trial import Trial
from firmware_profiles.errors import UserError

optuna = pytest.importorskip("optuna")

from dse.study import quiet  # noqa: E402 - imports optuna
from dse.trials import read_trials  # noqa: E402


def tell(study, params, values, **attributes):
    trial = study.ask()
    for name, value in params.items():
        trial.suggest_int(name, value, value)
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    if values is None:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, values)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A database with a search, and a study that is none."""
    url = f"sqlite:///{tmp_path_factory.mktemp('study') / 'search.db'}"
    with quiet():
        study = optuna.create_study(
            storage=url, study_name="mine", directions=["minimize", "minimize", "maximize"]
        )
        tell(study, {"0:a.weight": 2, "1:b.weight": 4}, [0.5, 1e6, 0.25], macs=300)
        tell(study, {"0:a.weight": 1, "1:b.weight": 1}, None, macs=100)
        tell(study, {"0:a.weight": 3, "1:b.weight": 8}, [900.0, 2e6, 0.5])
        tell(optuna.create_study(storage=url, study_name="other"), {"x": 1}, [1.0])
    return url


def test_finished_trials_are_read_with_their_vectors_and_macs(url):
    found = read_trials(url, "mine")
    assert found.groups == ("a.weight", "b.weight")
    assert found.trials == (Trial(0, (2, 4), 300, 0.25), Trial(2, (3, 8), 900, 0.5))
    assert found.num_hopeless == 1


def test_one_of_several_studies_has_to_be_chosen(url):
    with pytest.raises(UserError, match=r"holds 2 studies .*'mine'.* choose one with --name"):
        read_trials(url)


def test_a_study_that_is_not_there_is_told_with_the_nearest(url):
    with pytest.raises(UserError, match=r'no study .mina. .* did you mean "mine"'):
        read_trials(url, "mina")


def test_a_study_of_something_else_is_refused(url):
    with pytest.raises(UserError, match="Study 'other' has no cost to minimise"):
        read_trials(url, "other")


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(UserError, match=r"There is no study database .*none\.db"):
        read_trials(f"sqlite:///{tmp_path / 'none.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "text.db"
    path.write_text("not a database" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        read_trials(f"sqlite:///{path}")


def test_what_is_no_url_is_refused():
    with pytest.raises(UserError, match="is no URL of a database"):
        read_trials("search.db")
