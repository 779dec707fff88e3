# make run     set up this machine, build, and start a whole system on loopback
# make test    set up this machine, build, and run every test
# make build   leave the binaries in target/release/
# make check   formatting and lints
# make golden  rewrite the golden files after an intended change; read the difference before committing it

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# One profile for binaries and tests: RocksDB takes 15 minutes to compile on two cores, once.
RELEASE := --release --locked

.PHONY: run build test check golden setup setup-test bench

run: build
	$(TARGET_DIR)/release/hawser play

setup:
	.ci/setup build

setup-test:
	.ci/setup test

build: setup
	$(CARGO) build $(RELEASE) --workspace --bins

test: setup-test check
	$(CARGO) build $(RELEASE) --workspace --bins
	$(CARGO) test $(RELEASE) --workspace
	$(CARGO) test $(RELEASE) -p hawser-tests --features seeded-bugs --test seeded_bugs
	cd benches/runtimes && $(CARGO) test $(RELEASE) --workspace

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(RELEASE) --workspace --all-targets -- -D warnings
	cd benches/runtimes && $(CARGO) fmt --all --check
	cd benches/runtimes && $(CARGO) clippy $(RELEASE) --workspace --all-targets -- -D warnings

golden:
	UPDATE_GOLDEN=1 $(CARGO) test $(RELEASE) --workspace golden

bench: build
	$(TARGET_DIR)/release/hawser-bench codec
	$(TARGET_DIR)/release/hawser-bench connections --connections 15000
	$(TARGET_DIR)/release/hawser-bench fanout --connections 15000 --floor
	$(TARGET_DIR)/release/hawser-bench instructions
	$(TARGET_DIR)/release/hawser-bench system
