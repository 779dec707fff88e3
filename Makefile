# make run     set up this machine, build, and start a whole system on loopback
# make test    set up this machine, build, and run every test
# make build   leave the binaries in target/release/
# make check   formatting and lints
# make bench   measure for five minutes; make bench-full measures all there is
# make bench-tune  what each family of `hawser tune` does here; settings of the host are put back after each run
# make golden  rewrite the golden files after an intended change; read the difference before committing it

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# One profile for binaries and tests: RocksDB takes 15 minutes to compile on two cores, once.
RELEASE := --release --locked
BENCH := $(TARGET_DIR)/release/hawser-bench

.PHONY: run build test check golden setup setup-test bench bench-full bench-tune

run: build
	$(TARGET_DIR)/release/hawser play

setup:
	.ci/setup build

setup-test:
	.ci/setup test

build: setup
	$(CARGO) build $(RELEASE) --workspace --bins

# The store with its deliberate bugs comes first: what is built after it is what stays in the target folder.
test: setup-test check
	$(CARGO) test $(RELEASE) -p hawser-control -p hawser-kv --features hawser-kv/seeded-bugs --test crash seeded
	$(CARGO) build $(RELEASE) --workspace --bins
	$(CARGO) test $(RELEASE) --workspace
	$(CARGO) test $(RELEASE) -p hawser-tests --features seeded-bugs --test seeded_bugs
	cd benches/runtimes && $(CARGO) test $(RELEASE) --workspace
	cd kvstore/tests/disk && $(CARGO) test $(RELEASE)

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(RELEASE) --workspace --all-targets -- -D warnings
	cd benches/runtimes && $(CARGO) fmt --all --check
	cd kvstore/tests/disk && $(CARGO) fmt --all --check
	cd benches/runtimes && $(CARGO) clippy $(RELEASE) --workspace --all-targets -- -D warnings
	cd kvstore/tests/disk && $(CARGO) clippy $(RELEASE) --all-targets -- -D warnings

golden:
	UPDATE_GOLDEN=1 $(CARGO) test $(RELEASE) --workspace golden

# Five minutes: each scenario at a size that any machine holds. Root, for the fleet's network.
bench: build
	$(BENCH) codec
	$(BENCH) connections --connections 200000 --floor
	$(BENCH) fanout --connections 100000 --floor
	$(BENCH) push --connections 100000 --floor --rounds 3 --seconds 3
	$(BENCH) heartbeat --connections 100000 --floor --rounds 3 --seconds 3
	$(BENCH) slow
	$(BENCH) storm --devices 50000 --connections 20000
	$(BENCH) report

# A quarter of an hour. Root; without --host nothing outside of the runs' own networks is written.
bench-tune: build
	$(BENCH) tune --connections 100000 --rounds 9 --host

# Two and a half hours, of which one is churn and a half is the store's soak; needs 24 GiB of memory.
bench-full: build
	.ci/setup bench
	cd benches/runtimes && $(CARGO) build $(RELEASE)
	$(BENCH) codec
	$(BENCH) instructions
	$(BENCH) system
	$(BENCH) kv
	$(BENCH) log
	$(BENCH) soak
	for n in 15000 100000 1000000; do $(BENCH) connections --connections $$n --floor || exit 1; done
	$(BENCH) connections --connections 1000000 --tickets ed25519
	$(BENCH) connections --connections 2000000 --tickets ed25519 --control-node
	$(BENCH) connections --target 5000000
	$(BENCH) fanout --connections 5000000 --rounds 3 --floor
	$(BENCH) push --connections 5000000 --rounds 3
	for n in 100000 1000000; do \
	  $(BENCH) fanout --connections $$n --floor && $(BENCH) push --connections $$n --floor && \
	  $(BENCH) heartbeat --connections $$n --floor && $(BENCH) uplink --connections $$n --floor || exit 1; \
	done
	$(BENCH) heartbeat --connections 1000000 --rate 3333 --seconds 60
	$(BENCH) slow --floor
	$(BENCH) storm --devices 1000000 --connections 100000
	$(BENCH) peers --floor
	$(BENCH) runtimes
	$(BENCH) churn --minutes 60
	$(BENCH) report
