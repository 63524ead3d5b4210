"""Tickets on the Hugging Face Hub, or in a local folder that stands for a repository there: a ticket and its card.

The Hub is reached through `huggingface_hub` (the extra `hub`), with the token that `hf auth login` kept. Both kinds of
repository hold the same two files, are refused for the same reasons, and are read the same way.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vltickets.errors import UserError
from vltickets.store import write_file
from vltickets.tickets.ticket_file import Ticket, load_ticket, save_ticket

TICKET_NAME, CARD_NAME = "ticket.safetensors", "README.md"
Result = TypeVar("Result")


def is_folder(repo: str) -> bool:
    """Is it a local folder rather than the name of a repository? It starts with /, ./, ../ or ~, or it exists."""
    return repo.startswith(("/", "./", "../", "~")) or repo in (".", "..") or Path(repo).exists()


def write_repo(ticket: Ticket, card: str, folder: Path) -> None:
    """Write a repository's two files into a folder, which is made where it does not exist.

    What else lies there stays. A folder with a README.md and no ticket is somebody else's, and a `UserError`.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to write the ticket and its card to")
    _check_ours((path.name for path in folder.iterdir()) if folder.exists() else (), str(folder))
    with _writing(folder):
        save_ticket(ticket, folder / TICKET_NAME)
        write_file(folder / CARD_NAME, card.encode())


def push(ticket: Ticket, card: str, repo: str, *, endpoint: str | None = None, private: bool = False) -> str:
    """Put a ticket and its card into a repository, and return where they are.

    `repo` is a folder (`is_folder`) or a name such as "me/vqa-70", which is made where it does not exist. `endpoint` is
    the Hub's address, Hugging Face's unless given. What can't be reached, or is not allowed, is a `UserError`.
    """
    if is_folder(repo):
        folder = Path(repo).expanduser()
        write_repo(ticket, card, folder)
        return str(folder)
    hub = _hub()
    api = hub.HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as temporary:
        write_repo(ticket, card, Path(temporary))

        def upload() -> str:
            made = api.create_repo(repo, private=private, exist_ok=True)
            _check_ours(api.list_repo_files(made.repo_id), repo)
            api.upload_folder(
                repo_id=made.repo_id,
                folder_path=temporary,
                allow_patterns=[TICKET_NAME, CARD_NAME],
                commit_message="A lottery ticket and its card",
            )
            return str(made)

        return _asked(upload, "push to", repo, None)


def pull(repo: str, out: Path, *, revision: str | None = None, endpoint: str | None = None) -> Ticket:
    """Fetch a repository's ticket, verify it, and only then write it to `out`; return it.

    `revision` is a branch, tag or commit of a repository on the Hub. An `out` that already holds something else is a
    `UserError`, and so is what can't be reached or does not verify; nothing is written then.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; name the file to write with --out FILE.safetensors")
    if is_folder(repo):
        if revision is not None:
            raise UserError(f"{repo} is a folder, which has no revisions; leave out --revision")
        folder = Path(repo).expanduser()
        if not (folder / TICKET_NAME).is_file():
            raise UserError(f"{repo} has no {TICKET_NAME}; `vltickets ticket push` makes such a folder")
        return _accepted(folder / TICKET_NAME, out)
    hub = _hub()
    with tempfile.TemporaryDirectory() as temporary:  # not the cache: what does not verify shall not stay

        def download() -> str:
            # Asked first: a download tries a dead network again and again, and a branch may move in between.
            found = hub.HfApi(endpoint=endpoint).model_info(repo, revision=revision, timeout=10)
            place = {"revision": found.sha, "endpoint": endpoint, "local_dir": temporary}
            return str(hub.hf_hub_download(repo, TICKET_NAME, **place))

        return _accepted(Path(_asked(download, "pull from", repo, revision)), out)


def _accepted(fetched: Path, out: Path) -> Ticket:
    """Verify what was fetched, and let it appear at `out`, whole."""
    ticket, content = load_ticket(fetched), fetched.read_bytes()
    if out.exists() and out.read_bytes() != content:
        raise UserError(f"{out} is already there and is another file; name a new one with --out FILE")
    with _writing(out):
        write_file(out, content)
    return ticket


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{place} can't be written ({error.strerror}); make its folder, or name another place"
        ) from None


def _check_ours(names: Iterable[str], where: str) -> None:
    present = set(names)
    if CARD_NAME in present and TICKET_NAME not in present:
        raise UserError(f"{where} has a {CARD_NAME} and no {TICKET_NAME}: it is not a ticket's; name a new one")


def _hub() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when the library is first imported
    try:
        import huggingface_hub
    except ImportError:
        raise UserError('the Hub needs huggingface_hub: pip install "vltickets[hub]"') from None
    return huggingface_hub


def _asked(ask: Callable[[], Result], what: str, repo: str, revision: str | None) -> Result:
    """Ask the Hub, and say in one sentence what it refused."""
    from huggingface_hub import errors

    at = repo if revision is None else f"{repo} at revision {revision!r}"
    try:
        return ask()
    except errors.HFValidationError:
        raise UserError(f"can't {what} {repo!r}: a repository is called NAME or OWNER/NAME; a folder ./NAME") from None
    except errors.GatedRepoError:
        raise UserError(f"can't {what} {at}: it is gated; ask its owner for access, then `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"can't {what} {at}: the repository has no such revision") from None
    except errors.RemoteEntryNotFoundError:
        raise UserError(f"can't {what} {at}: the repository has no {TICKET_NAME}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"can't {what} {at}: no such repository, or no right to see it (`hf auth login`)") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        why = "not allowed; log in with `hf auth login`" if status in (401, 403) else f"the Hub answered {status}"
        raise UserError(f"can't {what} {at}: {why}") from None
    except errors.LocalTokenNotFoundError:
        raise UserError(f"can't {what} {at}: no token is here; log in with `hf auth login`") from None
    except Exception as error:  # what HTTP libraries raise, whichever the installed version uses
        if not _is_connection(error):
            raise
        raise UserError(
            f"can't {what} {at}: the Hub can't be reached; look at the network and HF_HUB_OFFLINE"
        ) from None


def _is_connection(error: BaseException | None) -> bool:
    """Was it the network, here or further down among the causes?"""
    while error is not None:
        names = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
        if isinstance(error, ConnectionError | TimeoutError) or names & {"httpx", "httpx2", "httpcore", "requests"}:
            return True
        error = error.__cause__ or error.__context__
    return False
