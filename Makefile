# Recipes for people; .ci/run calls the same ones. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Pinned, and installed into .tools/ by whoever needs them first.
CLAUDE_VERSION := 2.1.330
BUF_VERSION := 1.75.0
GRPCURL_VERSION := v1.9.3
HEALTH_PROBE_VERSION := v0.4.57

TOOLS := $(CURDIR)/.tools
OS := $(shell uname -s | tr '[:upper:]' '[:lower:]')
ARCH := $(shell uname -m | sed -e 's/^x86_64$$/x64/' -e 's/^aarch64$$/arm64/')
CLAUDE := $(TOOLS)/claude-$(CLAUDE_VERSION)/node_modules/@anthropic-ai/claude-code-$(OS)-$(ARCH)/claude
# buf's packages keep the machine's own name for arm64 on Linux.
BUF_ARCH := $(if $(and $(filter arm64,$(ARCH)),$(filter linux,$(OS))),aarch64,$(ARCH))
BUF := $(TOOLS)/buf-$(BUF_VERSION)/node_modules/@bufbuild/buf-$(OS)-$(BUF_ARCH)/bin/buf
GRPCURL := $(TOOLS)/grpcurl-$(GRPCURL_VERSION)/grpcurl
HEALTH_PROBE := $(TOOLS)/grpc-health-probe-$(HEALTH_PROBE_VERSION)/grpc-health-probe

.PHONY: help check fmt lint proto test test-fast test-real simulation demo bench test-readme tools claude-path clean-tools

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | while IFS=$$'\t' read -r name what; do printf '%-12s %s\n' "$$name" "$$what"; done

check: fmt lint proto ## Format, lints and the wire contract, without running tests.

fmt: ## Check the format.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	cargo fmt --check

lint: ## Clippy, no warning allowed.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --test real_cli --test readme --locked -- -D warnings

proto: $(BUF) ## Check the wire contract: buf lint.
	$(BUF) lint

test: test-fast test-real test-readme ## Run every test; sets up what it needs in .tools/.

test-fast: ## Tests that need Rust and a C compiler alone.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	@$(call need,cc,a C compiler)
	cargo test --locked

test-real: $(CLAUDE) ## Tests on the real CLI, with a stand-in of the API on loopback.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	CLAUDEPOOL_TEST_CLAUDE=$(CLAUDE) cargo test --locked --test real_cli

SEEDS ?= 20000
FIRST ?= 0

simulation: ## Run SEEDS seeds of the simulation from FIRST; a tenth on SQLite.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	SEEDS=$(SEEDS) FIRST=$(FIRST) cargo test --locked --test simulation every_promise -- --nocapture

demo: ## Show everything once (release build).
	cargo run --release --locked -- demo

bench: $(CLAUDE) ## Measure against `claude -p` and a bare warm process.
	CLAUDEPOOL_TEST_CLAUDE=$(CLAUDE) cargo bench --locked --bench warm

test-readme: $(GRPCURL) $(BUF) $(HEALTH_PROBE) ## Run the README's examples with other people's tools.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	cargo build --locked --example fake_claude
	CLAUDEPOOL_TEST_GRPCURL=$(GRPCURL) CLAUDEPOOL_TEST_BUF=$(BUF) CLAUDEPOOL_TEST_HEALTH_PROBE=$(HEALTH_PROBE) \
		cargo test --locked --test readme

tools: $(GRPCURL) $(BUF) $(HEALTH_PROBE) ## Install grpcurl, buf and grpc-health-probe; prints where they are.
	@printf '%s\n' $^

claude-path: $(CLAUDE) ## Install the pinned CLI; prints where it is.
	@echo $(CLAUDE)

clean-tools: ## Remove what was installed into .tools/.
	rm -rf $(TOOLS)

$(CLAUDE):
	@$(call need,npm,Node.js with npm: https://nodejs.org)
	npm install --prefix $(TOOLS)/claude-$(CLAUDE_VERSION) --no-audit --no-fund --ignore-scripts --loglevel error @anthropic-ai/claude-code@$(CLAUDE_VERSION)
	@test -x $@ || { echo "error: the npm package has no program for $(OS)-$(ARCH)" >&2; exit 1; }
	@touch $@

$(BUF):
	@$(call need,npm,Node.js with npm: https://nodejs.org)
	npm install --prefix $(TOOLS)/buf-$(BUF_VERSION) --no-audit --no-fund --ignore-scripts --loglevel error @bufbuild/buf@$(BUF_VERSION)
	@test -x $@ || { echo "error: the npm package has no buf for $(OS)-$(BUF_ARCH)" >&2; exit 1; }
	@touch $@

$(GRPCURL):
	@$(call need,go,Go 1.26 or newer: https://go.dev)
	GOBIN=$(dir $@) go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)

$(HEALTH_PROBE):
	@$(call need,go,Go 1.26 or newer: https://go.dev)
	GOBIN=$(dir $@) go install github.com/grpc-ecosystem/grpc-health-probe@$(HEALTH_PROBE_VERSION)

# $(call need,PROGRAM,WHAT): a missing toolchain is an error, never a skip.
need = command -v $(1) >/dev/null || { echo "error: there is no $(1) in PATH: install $(2)" >&2; exit 1; }
