"""What the journal keeps, what it never holds, and what it says when it is broken."""

import sqlite3
import time

import pytest
from asking import requests as _requests

from luna.errors import LunaError
from luna.llm.calls import Reply, Request
from luna.llm.client import Client
from luna.llm.journal import Journal, journal_file, key_of
from luna.settings import Endpoint

REPLY = Reply("text", 3, 2, cut=True, nano_usd=7)


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(journal_file(tmp_path))


def test_a_reply_comes_back_as_it_was(journal):
    assert journal.get("k") is None
    journal.keep("k", REPLY, "G1/teacher", None)
    assert Journal(journal.path).get("k") == REPLY
    unpriced = Reply("ünï\n{", 0, 0)
    journal.keep("k2", unpriced, "G1/teacher", None)
    assert journal.get("k2") == unpriced
    assert journal.spent("G1/teacher") == (5, 7)
    assert journal.spent("G2/teacher") == (0, 0)


def test_a_reservation_is_replaced_by_its_cost(journal):
    entry = journal.book("a", None, 100, 1000)
    assert journal.spent("a") == (100, 1000)
    journal.keep("k", REPLY, "a", entry)
    assert journal.spent("a") == (5, 7)


REQUEST = Request([{"role": "user", "content": "q"}], seed=1, marks={"iteration": 1})
ENDPOINT = Endpoint(model="openai/m", api_base="http://x/v1")


@pytest.mark.parametrize(
    "other",
    [
        Request([{"role": "user", "content": "p"}], seed=1, marks={"iteration": 1}),
        Request([{"role": "system", "content": "q"}], seed=1, marks={"iteration": 1}),
        Request([{"role": "user", "content": "q"}], seed=2, marks={"iteration": 1}),
        Request([{"role": "user", "content": "q"}], seed=1, marks={"iteration": 2}),
        Request([{"role": "user", "content": "q"}], seed=1, marks={"iteration": 1, "student": "s"}),
        Request([{"role": "user", "content": "q"}], seed=1),
    ],
)
def test_another_request_has_another_key(other):
    assert key_of(ENDPOINT, other) != key_of(ENDPOINT, REQUEST)


@pytest.mark.parametrize(
    ("setting", "asks_anew"),
    [
        ({"model": "openai/n"}, True),
        ({"api_base": None}, True),
        ({"temperature": 0.1}, True),
        ({"max_tokens": 9}, True),
        ({"concurrency": 3, "timeout": 9.0, "max_retries": 1, "requests_per_minute": 5}, False),
        ({"max_usd": 9.0, "max_tokens_total": 9, "max_failed": 0.5, "price": "free"}, False),
    ],
)
def test_only_what_shapes_a_reply_is_part_of_its_key(setting, asks_anew):
    assert (key_of(ENDPOINT.model_copy(update=setting), REQUEST) != key_of(ENDPOINT, REQUEST)) == asks_anew


def test_a_second_run_asks_for_nothing_and_bills_the_same(chat_server, tmp_path):
    endpoint = chat_server.endpoint(price={"prompt": 0.3, "completion": 0.7})
    bills, replies = [], []
    for _ in range(2):
        client = Client(endpoint, "teacher", Journal(journal_file(tmp_path)), "G1")
        # Some requests are equal: they are one call.
        replies.append(client.ask_all(_requests(12) + _requests(5)))
        bills.append(client.bill())
    assert len(chat_server.requests) == 12
    assert replies[0] == replies[1]
    assert (client.usage.journalled, client.usage.retries) == (17, 0)
    assert bills[0] == bills[1]
    assert bills[0]["usd"] == pytest.approx(12 * (3 * 0.3e-6 + 2 * 0.7e-6))
    assert (bills[0]["calls_answered"], bills[0]["prompt_tokens"], bills[0]["completion_tokens"]) == (12, 36, 24)


def test_what_came_in_before_an_error_is_kept(chat_server, tmp_path):
    chat_server.faults = ["none"] * 6 + ["401"]
    clients = [Client(chat_server.endpoint(concurrency=1), "teacher", Journal(journal_file(tmp_path))) for _ in "ab"]
    with pytest.raises(
        LunaError, match=r"HTTP 401, the key is refused; 6 of 10 replies are there and kept in .*sqlite;"
    ):
        clients[0].ask_all(_requests(10))
    assert len(clients[1].ask_all(_requests(10))) == 10
    assert len(chat_server.requests) == 6 + 1 + 4


def test_no_key_ever_stands_in_the_journal(chat_server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-abcdefgh12345")
    endpoint = chat_server.endpoint(model="openai/gpt-4o-mini", max_usd=1.0, api_base=chat_server.api_base)
    chat_server.faults = ["none", "500", "400"]
    Client(endpoint, "teacher", Journal(journal_file(tmp_path)), "G1").ask_all(_requests(4))
    files = [path for path in (tmp_path / ".luna").iterdir() if path.is_file()]
    held = b"".join(path.read_bytes() for path in files)
    assert b"message " in held, "the scan sees what is there"
    assert b"abcdefgh12345" not in held


def test_the_embedded_tutor_leaves_no_journal(tmp_path):
    client = Client(Endpoint(model="luna-tutor/arithmetic", max_usd=1.0), "teacher", Journal(journal_file(tmp_path)))
    client.ask_all([Request([{"role": "system", "content": ""}, {"role": "user", "content": "integer arithmetic"}])])
    assert client.bill()["usd"] == 0.0
    assert not (tmp_path / ".luna").exists()


@pytest.mark.parametrize("spoil", ["text", "middle", "empty pages"])
def test_a_damaged_journal_is_one_line_with_the_mend(journal, chat_server, spoil):
    for number in range(500):
        journal.keep(f"{number}", Reply("x" * 100, 1, 1), "a", None)
    journal.close()
    whole = journal.path.read_bytes()
    spoilt = {
        "text": b"not a journal at all " * 400,
        "middle": whole[:4096] + b"\xff" * 4096 * 8 + whole[4096 * 9 :],
        "empty pages": whole[:100] + bytes(len(whole) - 100),
    }
    journal.path.write_bytes(spoilt[spoil])
    with pytest.raises(LunaError, match=r"calls\.sqlite: .*damaged \(.*\); move it away, and what it held") as error:
        Client(chat_server.endpoint(), "teacher", Journal(journal.path)).ask_all(_requests(30))
    assert "\n" not in str(error.value)
    assert journal.path.read_bytes() == spoilt[spoil], "the file is left as it is"
    assert not chat_server.requests


def test_a_journal_of_another_version_is_left_alone(journal):
    journal.keep("k", REPLY, "a", None)
    journal.close()
    with sqlite3.connect(journal.path) as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(LunaError, match=r"is of version 2, not 1; use the Luna that wrote it, or move it away"):
        Journal(journal.path).get("k")


def test_a_torn_last_commit_is_not_read_and_costs_no_other(journal):
    for number in range(3):
        journal.keep(f"{number}", REPLY, "a", None)
    files = [journal.path, journal.path.with_name("calls.sqlite-wal")]
    held = [path.read_bytes() for path in files]
    journal.close()
    torn = journal.path.with_name("torn.sqlite")
    torn.write_bytes(held[0])
    torn.with_name("torn.sqlite-wal").write_bytes(held[1][:-1000])
    again = Journal(torn)
    assert [again.get(key) for key in "012"] == [REPLY, REPLY, None]


@pytest.mark.parametrize("inside", [".dvc/tmp/exps/tmpx", ".luna/rebuild/Luna-G001"])
def test_trees_made_for_a_while_share_the_journal_around_them(tmp_path, inside):
    tree = tmp_path / inside
    tree.mkdir(parents=True)
    assert journal_file(tree) == tree / ".luna" / "calls.sqlite"
    (tmp_path / "dvc.yaml").touch()
    assert journal_file(tree) == tmp_path / ".luna" / "calls.sqlite"
    assert journal_file(tmp_path) == tmp_path / ".luna" / "calls.sqlite"


def test_a_look_up_and_a_commit_take_little(journal):
    started = time.process_time()
    for number in range(500):
        journal.keep(f"{number}", REPLY, "a", None)
        journal.get(f"{number}")
    assert (time.process_time() - started) / 500 < 0.003
