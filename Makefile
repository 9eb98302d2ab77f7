# Every recipe that calls cargo goes through deploy/build/with-env.sh, the one place for the build's variables.
# Start here: `make run` (a hub on this machine), `make test` (everything), `make help`.
SHELL := /bin/bash
with_env := deploy/build/with-env.sh

.DEFAULT_GOAL := help
.PHONY: help run test build test-bootstrap bench chaos fuzz verify fix deps

help: ## Show this list (V=1 with any of them: show what the tools print)
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

run: ## Install what is missing, build, and run a development hub with a simulated fleet
	@deploy/dev/run.sh

test: ## Install what is missing and run all tests: Rust, lints, and the real SDKs
	@deploy/dev/test.sh

build: ## Build the release binary: ${CARGO_TARGET_DIR:-target}/release/holdfast
	@deploy/dev/build.sh

test-bootstrap: ## Try `make run` on a bare Debian (debootstrap, as root) until the hub answers; prints the time of each step
	@deploy/dev/bootstrap.sh run

bench: build ## Measure the hub and its peers (takes long; real disk)
	@$(with_env) benches/run.sh

chaos: ## Break three nodes under load CHAOS_FAULTS times (default 200) and check what they promised
	@deploy/dev/chaos.sh

fuzz: ## Run every fuzz target for FUZZ_SECONDS (default 600) each
	@deploy/dev/fuzz.sh

verify: ## Only look: formatting, lints, licenses and layers
	@deploy/dev/verify.sh

fix: ## Rewrite: formatting, generated pages, and the schema of the chart's values
	$(with_env) cargo fmt --all
	HOLDFAST_REWRITE=1 $(with_env) cargo test --quiet -p holdfast -p holdfast-model
	tests/kubernetes/schema.py --write

deps: ## Install the system packages that the build needs
	@deploy/dev/deps.sh
