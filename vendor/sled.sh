#!/usr/bin/env bash
# vendor/sled is the crate sled 0.34.7 with the changes of vendor/sled.patch.
#
#   vendor/sled.sh check        checks that it is just that (the default)
#   vendor/sled.sh make         makes vendor/sled from the crate and the patch
#   vendor/sled.sh patch        writes the patch from what vendor/sled is
#   vendor/sled.sh test [...]   runs sled's own tests on the copy, with further arguments of `cargo test`
#
# cargo provides the crate. Without a network and without the crate in cargo's cache, it exits with 3.
set -euo pipefail
cd "$(dirname "$0")"

version=0.34.7
# The crate's checksum, as Cargo.lock had it before the copy took its place.
checksum=7f96b4737c2ce5987354855aed3797279def4ebf734436c6aa4552cf8e169935
# What of the crate is kept.
kept=(Cargo.toml LICENSE-APACHE LICENSE-MIT src)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The crate, unpacked, in $scratch/crates/sled.
fetch_crate() {
    mkdir -p "$scratch/wants/src"
    touch "$scratch/wants/src/lib.rs"
    printf '[package]\nname = "wants"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\nsled = "=%s"\n[workspace]\n' \
        "$version" >"$scratch/wants/Cargo.toml"
    if ! (cd "$scratch/wants" && cargo vendor --quiet ../crates) >"$scratch/said" 2>&1; then
        echo "vendor/sled.sh: the crate sled $version can't be had:" >&2
        cat "$scratch/said" >&2
        exit 3
    fi
    if ! grep -q "\"package\":\"$checksum\"" "$scratch/crates/sled/.cargo-checksum.json"; then
        echo "vendor/sled.sh: the crate sled $version has another checksum than it had: don't use it" >&2
        exit 1
    fi
}

# What is kept of the crate, in $scratch/a/sled.
original() {
    fetch_crate
    mkdir -p "$scratch/a/sled"
    for name in "${kept[@]}"; do cp -r "$scratch/crates/sled/$name" "$scratch/a/sled/"; done
}

# The same with the patch, in $scratch/b/sled.
patched() {
    original
    mkdir "$scratch/b"
    cp -r "$scratch/a/sled" "$scratch/b/"
    (cd "$scratch/b" && GIT_DIR=/nowhere git apply --whitespace=nowarn "$OLDPWD/sled.patch")
}

case ${1:-check} in
check)
    patched
    if ! diff -r "$scratch/b/sled" sled; then
        echo "vendor/sled is not the crate sled $version with vendor/sled.patch: see above; \`vendor/sled.sh make\` makes it" \
            "so, \`vendor/sled.sh patch\` takes what it is into the patch" >&2
        exit 1
    fi
    echo "vendor/sled is the crate sled $version ($checksum) with vendor/sled.patch, and nothing else"
    ;;
make)
    patched
    rm -rf sled
    cp -r "$scratch/b/sled" sled
    ;;
patch)
    original
    mkdir "$scratch/b"
    cp -r sled "$scratch/b/sled"
    # Exit 1 says that they differ.
    (cd "$scratch" && git diff --no-index --no-color --no-prefix a/sled b/sled || true) |
        sed -e 's#^\(diff --git \)a/sled\(.*\) b/sled#\1a/sled\2 b/sled#' >sled.patch
    ;;
test)
    shift
    patched
    # The crate's own manifest: it names what its tests need.
    rm -rf "$scratch/crates/sled/src"
    cp -r sled/src "$scratch/crates/sled/src"
    rm "$scratch/crates/sled/.cargo-checksum.json"
    printf '\n[workspace]\n' >>"$scratch/crates/sled/Cargo.toml"
    # As published it does not compile.
    sed -i 's/let sub = db.watch_prefix/let mut sub = db.watch_prefix/' "$scratch/crates/sled/tests/test_tree.rs"
    cd "$scratch/crates/sled"
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$OLDPWD/../target/sled} cargo test --features testing "$@"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
