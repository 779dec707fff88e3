"""redis-py against a running store: `redis_py.py HOST PORT PASSWORD RESP-VERSION`.

Each function below uses the client as its documentation shows. Whatever answers otherwise than Redis
would ends the script with a traceback and a code that is not 0.
"""

import sys
import threading

import redis

HOST, PORT, PASSWORD, PROTOCOL = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
DEADLINE_S = 60
BIG_BYTES = 4 << 20


def connect(**options):
    return redis.Redis(
        host=HOST,
        port=PORT,
        protocol=PROTOCOL,
        socket_timeout=DEADLINE_S,
        **{"password": PASSWORD, "decode_responses": True, **options},
    )


def expect_error(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


def authentication():
    expect_error(redis.AuthenticationError, connect(password=None).ping)
    expect_error(redis.AuthenticationError, connect(password="wrong").ping)
    admin = connect()
    admin.acl_setuser(
        "reader",
        enabled=True,
        reset=True,
        passwords=["+secret"],
        keys=["open:*"],
        commands=["+get"],
    )
    reader = connect(username="reader", password="secret")
    admin.set("open:a", "1")
    assert reader.get("open:a") == "1"
    expect_error(redis.exceptions.NoPermissionError, lambda: reader.get("closed:a"))
    expect_error(redis.exceptions.NoPermissionError, lambda: reader.set("open:a", "2"))
    assert admin.acl_deluser("reader") == 1


def values():
    r = connect()
    assert r.set("s", "v", ex=100, nx=True) is True
    assert r.set("s", "w", nx=True) is None
    assert 0 < r.ttl("s") <= 100
    assert r.mset({"m1": "1", "m2": "2"}) and r.mget("m1", "m2", "m3") == ["1", "2", None]
    assert r.incrbyfloat("f", 1.5) == 1.5
    assert r.hset("h", mapping={"a": "1", "b": "2"}) == 2
    assert r.hgetall("h") == {"a": "1", "b": "2"}
    assert r.sadd("set", "a", "b") == 2 and r.smembers("set") == {"a", "b"}
    assert r.zadd("z", {"a": 1, "b": 2.5}) == 2 and r.zscore("z", "b") == 2.5
    pairs = r.zrange("z", 0, -1, withscores=True)
    assert [tuple(pair) for pair in pairs] == [("a", 1.0), ("b", 2.5)]
    assert r.rpush("l", *range(5)) == 5 and r.lrange("l", 1, 2) == ["1", "2"]
    assert r.object("encoding", "m1") == "int"
    assert r.info("server")["redis_version"].startswith("7.0")
    assert r.config_get("maxmemory")["maxmemory"] == "0"
    expect_error(redis.ResponseError, lambda: r.incr("h"))
    assert r.command_count() > 150


def pipelines():
    r = connect()
    with r.pipeline(transaction=False) as p:
        for number in range(10_000):
            p.set(f"p:{number}", number)
        p.incr("h")
        for number in range(10_000):
            p.get(f"p:{number}")
        answers = p.execute(raise_on_error=False)
    assert answers[:10_000] == [True] * 10_000
    assert isinstance(answers[10_000], redis.ResponseError)
    assert answers[10_001:] == [str(number) for number in range(10_000)]


def transactions():
    """Several clients count up one key by WATCH, and none of them is lost."""
    r = connect()
    r.set("counter", 0)

    def count():
        mine = connect()

        def step(p):
            value = int(p.get("counter"))
            p.multi()
            p.set("counter", value + 1)

        for _ in range(25):
            mine.transaction(step, "counter")

    run_together([count] * 4)
    assert r.get("counter") == "100"
    with r.pipeline() as p:
        p.watch("counter")
        r.incr("counter")
        p.multi()
        p.set("counter", "lost")
        expect_error(redis.WatchError, p.execute)
    assert r.get("counter") == "101"


def run_together(calls):
    failures = []

    def guarded(call):
        try:
            call()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "a thread hangs"
    assert not failures, failures


def published():
    r = connect()
    subscriber = r.pubsub()
    subscriber.subscribe("news")
    subscriber.psubscribe("n*s")
    for kind in ["subscribe", "psubscribe"]:
        assert subscriber.get_message(timeout=DEADLINE_S)["type"] == kind
    assert r.publish("news", "hello") == 2
    got = [subscriber.get_message(timeout=DEADLINE_S) for _ in range(2)]
    assert [(m["type"], m["data"]) for m in got] == [("message", "hello"), ("pmessage", "hello")]
    assert dict(r.pubsub_numsub("news")) == {"news": 1}
    subscriber.unsubscribe()
    assert subscriber.get_message(timeout=DEADLINE_S)["type"] == "unsubscribe"
    subscriber.close()


def blocking():
    r = connect()
    got = []
    waiter = connect()

    def push():
        while r.info("clients")["blocked_clients"] == 0:
            pass
        r.rpush("queue", "job")

    run_together([lambda: got.append(waiter.blpop(["other", "queue"], timeout=0)), push])
    assert [tuple(pair) for pair in got] == [("queue", "job")]
    assert r.blpop("queue", timeout=0.01) is None
    r.zadd("zqueue", {"a": 1})
    assert list(r.bzpopmin("zqueue", timeout=1)) == ["zqueue", "a", 1.0]


def streams():
    r = connect()
    ids = [r.xadd("stream", {"number": number}) for number in range(10)]
    r.xgroup_create("stream", "group", id="0")
    read = r.xreadgroup("group", "alice", {"stream": ">"}, count=4)
    entries = read["stream"][0] if isinstance(read, dict) else read[0][1]
    assert [entry[0] for entry in entries] == ids[:4]
    assert r.xack("stream", "group", *ids[:2]) == 2
    assert r.xpending("stream", "group")["pending"] == 2
    claimed = r.xautoclaim("stream", "group", "bob", min_idle_time=0)
    assert [entry[0] for entry in claimed[1]] == ids[2:4]
    assert r.xinfo_groups("stream")[0]["pending"] == 2
    assert len(r.xrange("stream")) == 10 and r.xtrim("stream", maxlen=5, approximate=False) == 5
    # Waits for what comes.
    waiter, got = connect(), []

    def add():
        while r.info("clients")["blocked_clients"] == 0:
            pass
        r.xadd("stream", {"late": "1"})

    wait = lambda: got.append(waiter.xread({"stream": "$"}, block=0))
    run_together([wait, add])
    assert "late" in str(got[0])


def scans():
    r = connect()
    wanted = {f"p:{number}" for number in range(10_000)}
    assert set(r.scan_iter(match="p:*", count=500)) == wanted
    r.hset("bighash", mapping={f"f{number}": number for number in range(1000)})
    assert dict(r.hscan_iter("bighash")) == {f"f{n}": str(n) for n in range(1000)}
    r.zadd("bigz", {f"m{number}": number for number in range(1000)})
    assert len({member for member, _ in r.zscan_iter("bigz")}) == 1000


def big_values():
    r = connect(decode_responses=False)
    value = bytes(range(256)) * (BIG_BYTES // 256)
    assert r.set("big", value) and r.get("big") == value
    assert r.getrange("big", BIG_BYTES - 3, -1) == value[-3:]
    assert r.rpush("biglist", value, b"", value) == 3
    assert r.lrange("biglist", 0, -1) == [value, b"", value]


def main():
    connect().flushall()
    for check in [
        authentication,
        values,
        pipelines,
        transactions,
        published,
        blocking,
        streams,
        scans,
        big_values,
    ]:
        check()
        print(f"redis-py {redis.__version__}, RESP{PROTOCOL}: {check.__name__}")


main()
