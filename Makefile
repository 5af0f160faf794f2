# make               the programs, in target/release
# make install       puts them below PREFIX (docs/mounting.md); make uninstall takes them away
# make demo          the main job, in the open
# make test          all tests but those of the next two
# make test-card     those with a PIV card behind pcscd, OpenSC and ykcs11
# make test-kernel   those in an emulated machine: the kernel's own eCryptfs
# make bench         the speed table
# make lint          formatting, clippy, dependency rules
# make docs          man pages, shell completions, in target/docs

.PHONY: all install uninstall test test-programs test-card test-kernel demo bench lint docs

all:
	scripts/packages build
	cargo build --release --workspace --bins

PREFIX ?= /usr/local
# Where mount(8) looks, whatever PREFIX is.
SBINDIR ?= /sbin
BUILT ?= target/release
# What people do not type. The programs look for each other here (docs/decisions/084).
LIBEXECDIR := $(PREFIX)/libexec/claviger
PROGRAMS := clavigerd claviger-fs claviger-pki-openssl claviger-pki-pkcs11 claviger-pki-tpm
UNITDIR := $(PREFIX)/lib/systemd/user

# Builds nothing: root need not have cargo.
install:
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(BUILT)/claviger
	install -D -m 755 -t $(DESTDIR)$(LIBEXECDIR) $(PROGRAMS:%=$(BUILT)/%)
	install -d $(DESTDIR)$(SBINDIR)
	ln -sf $(LIBEXECDIR)/claviger-fs $(DESTDIR)$(SBINDIR)/mount.fuse.claviger
	install -D -m 644 -t $(DESTDIR)$(UNITDIR) daemon/systemd/clavigerd.service
	sed -i 's|/usr/libexec/claviger|$(LIBEXECDIR)|' $(DESTDIR)$(UNITDIR)/clavigerd.service
	umask 022 && $(BUILT)/claviger-gen $(DESTDIR)$(PREFIX)/share

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/claviger $(PROGRAMS:%=$(DESTDIR)$(LIBEXECDIR)/%) \
	    $(DESTDIR)$(SBINDIR)/mount.fuse.claviger $(DESTDIR)$(UNITDIR)/clavigerd.service \
	    $(DESTDIR)$(PREFIX)/share/man/man1/claviger.1 $(DESTDIR)$(PREFIX)/share/man/man1/claviger-*.1 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions/claviger \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_claviger \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/claviger.fish
	test ! -d $(DESTDIR)$(LIBEXECDIR) || rmdir --ignore-fail-on-non-empty $(DESTDIR)$(LIBEXECDIR)

# Tests become other users and make namespaces: whoever is not root runs them through sudo.
ifneq ($(shell id -u),0)
TARGET := $(shell uname -m | tr a-z A-Z)_UNKNOWN_LINUX_GNU
test: export CARGO_TARGET_$(TARGET)_RUNNER = sudo -nE env PATH=$(PATH):/usr/sbin:/sbin
endif

test: test-programs
	if cargo nextest --version >/dev/null 2>&1; \
	then cargo nextest run --workspace; \
	else cargo test --workspace; fi

# The stories run the programs, which cargo does not build for them.
test-programs:
	scripts/packages test
	cargo build --workspace --bins --examples

# The card is a crate of its own (docs/decisions/103): what is checked of it is checked here.
CARD := --locked --manifest-path hw-tests/piv-card/Cargo.toml --target-dir $(or $(CARGO_TARGET_DIR),target)
test-card:
	scripts/packages card
	cargo build --workspace --bins
	cargo clippy $(CARD) --all-targets -- -D warnings
	cargo test $(CARD)
	hw-tests/piv-card/build
	if cargo nextest --version >/dev/null 2>&1; \
	then cargo nextest run -p claviger-hw-tests --test card; \
	else cargo test -p claviger-hw-tests --test card; fi

# Boots Debian's stock kernel in QEMU.
test-kernel:
	scripts/packages kernel
	cargo build --workspace --bins
	hw-tests/kernel/build debug
	if cargo nextest --version >/dev/null 2>&1; \
	then cargo nextest run -p claviger-hw-tests --test kernel; \
	else cargo test -p claviger-hw-tests --test kernel; fi

demo:
	scripts/packages test
	cargo build --release --workspace --bins
	scripts/demo

bench:
	scripts/packages bench
	cargo build --release --workspace --bins --examples
	hw-tests/kernel/build release
	target/release/claviger-bench target/bench.json

lint:
	cargo fmt --check
	cargo fmt --check --manifest-path hw-tests/piv-card/Cargo.toml
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace
	if cargo deny --version >/dev/null 2>&1; \
	then cargo deny check bans licenses sources && \
	    cargo deny --config $(CURDIR)/deny.toml --manifest-path hw-tests/piv-card/Cargo.toml check -A license-not-encountered licenses sources; \
	else echo "cargo install --locked cargo-deny: the rules of deny.toml were not checked"; fi
# They have 'test = false', so that 'cargo test' leaves them out; --all-targets does then too.
	cargo clippy -p claviger-hw-tests --test card --test kernel -- -D warnings

docs:
	cargo run --quiet -p claviger-cli --bin claviger-gen -- target/docs
