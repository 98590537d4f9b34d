#!/bin/sh
# Gets a bare Debian to where VkMoE builds, and builds it.
#
#   sh cmake/bootstrap.sh deps       install what the build needs
#   sh cmake/bootstrap.sh demo       deps, build, run the demo
#   sh cmake/bootstrap.sh test       deps, drivers, build and run every test: under ASan and UBSan, the fuzzers, plain
#   sh cmake/bootstrap.sh drivers    download further Vulkan drivers to test on (tests/drivers.sh)
#   sh cmake/bootstrap.sh unpack SUITE FOLDER PACKAGE...
#                                    download Debian packages (SUITE "own": of this release) and unpack them into FOLDER
#   sh cmake/bootstrap.sh mirror     print the machine's Debian mirror
#
# Everything repeats cheaply: with nothing missing, deps touches neither apt nor the network.
# Debian 12's Vulkan headers and glslang are too old for cooperative matrices, and it has no VMA and no Catch2 3. There
# newer packages are unpacked into .deps/, through an apt configuration of our own: no source is added to the machine.
set -eu

repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
deps=$repo/.deps

# What every system gets from its own packages.
packages="g++ cmake ninja-build pkg-config spirv-tools spirv-headers libtbb-dev libhwy-dev nlohmann-json3-dev libcli11-dev
          libfmt-dev libxxhash-dev libicu-dev zlib1g-dev libvulkan1 mesa-vulkan-drivers"

# What the tests get besides: clang with libFuzzer, and a cache of what several builds compile alike.
test_packages="clang libclang-rt-dev ccache"

# What must be recent: package and lowest version. The system's own packages serve if all of them are recent enough.
recent="libvulkan-dev 1.3.268
        libvulkan-volk-dev 1.3.268
        libvulkan-memory-allocator-dev 3.0.1
        glslang-tools 13
        catch2 3"

# What is unpacked into .deps otherwise. The tools bring the C and C++ libraries they run on.
headers_trixie="libvulkan-dev libvulkan-volk-dev libvulkan-memory-allocator-dev spirv-headers"
headers_backports="libcatch2-dev"
tools_trixie="glslang-tools spirv-tools libc6 libstdc++6 libgcc-s1"
tools="glslang spirv-val spirv-dis spirv-as spirv-opt"
stamp="$headers_trixie $headers_backports $tools_trixie $tools, layout 1, $(uname -m)"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# ---------------------------------------------------------------------------------------- the system's own packages

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# missing PACKAGE...: prints those that are not installed.
missing() {
    for package in "$@"; do
        installed "$package" || printf '%s\n' "$package"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

update_lists() {
    say "Updating the package lists."
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update || say "Some package lists could not be updated."
}

install_quietly() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 \
        -o DPkg::Lock::Timeout=300 install "$@" </dev/null >/dev/null
}

# install PACKAGE...: installs those that are missing; first from the lists at hand, then from fresh ones.
install() {
    wanted=$(missing "$@" | xargs)
    [ -n "$wanted" ] || return 0
    hand="apt-get install --no-install-recommends $wanted"
    can_be_root || fail "These packages are missing, and installing them needs root or sudo. Run as root: $hand"
    say "Installing: $wanted"
    # shellcheck disable=SC2086
    install_quietly $wanted 2>/dev/null || { update_lists && install_quietly $wanted; } ||
        fail "These packages could not be installed: $wanted. Run as root, and read what it says: apt-get update && $hand"
}

# ----------------------------------------------------------------------------------- packages of another Debian release

# The machine's own Debian mirror and suite, as its apt sources name them: "URI suite".
debian_mirror() {
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
        while read -r uri suite component; do
            case $uri,$component,$suite in
                http*,main,"$codename" | http*,main,stable | http*,main,oldstable | http*,main,testing | http*,main,unstable | http*,main,sid)
                    printf '%s %s\n' "$uri" "$suite"
                    break ;;
            esac
        done
}

# private_apt FOLDER SUITE: writes an apt configuration that knows SUITE alone and keeps all its state in FOLDER.
# The machine's proxies and time-outs are kept; its sources, pins and hooks are not, nor what it has installed: apt would
# look for that very version, which SUITE may not have.
private_apt() {
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$keys" ] || fail "Debian's signing keys are missing ($keys), so its packages cannot be checked: install debian-archive-keyring."
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || fail "The apt sources of this machine name no Debian mirror, so packages of another release cannot be fetched."
    suite=$2
    [ "$suite" != own ] || suite=${mirror#* }
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    printf 'deb [signed-by=%s] %s %s main\n' "$keys" "${mirror%% *}" "$suite" >"$1/sources.list"
    apt-config dump Acquire >"$1/apt.conf"
    : >"$1/installed"
    cat >>"$1/apt.conf" <<CONF
Dir::State "$1";
Dir::State::lists "$1/lists";
Dir::State::status "$1/installed";
Dir::Cache "$1/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$1/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Log "$1";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
CONF
}

# unpack SUITE FOLDER PACKAGE...: downloads packages, checked against Debian's keys, and unpacks them into FOLDER.
unpack() (
    suite=$1 folder=$2
    shift 2
    # apt splits some of its settings at spaces, and the repository may live under a name with spaces.
    work=$(mktemp -d /tmp/vkmoe-packages.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    private_apt "$work" "$suite"
    export APT_CONFIG="$work/apt.conf"
    say "Downloading from Debian ($suite): $*"
    { apt-get -qq update && cd "$work" && apt-get -qq download "$@"; } >&2 ||
        fail "These packages could not be downloaded from Debian ($suite): $*"
    mkdir -p "$folder"
    for package in "$work"/*.deb; do
        dpkg-deb -x "$package" "$folder"
    done
)

# --------------------------------------------------------------------------------------------------------------- .deps

# recent_enough VERSION_OF: whether VERSION_OF prints a recent enough version for every package that must be recent.
recent_enough() {
    printf '%s\n' "$recent" | while read -r package lowest; do
        version=$("$1" "$package")
        [ -n "$version" ] && dpkg --compare-versions "$version" ge "$lowest" || exit 1
    done
}

installed_version() { if installed "$1"; then dpkg-query -W -f '${Version}' "$1"; fi; }

offered_version() { LC_ALL=C apt-cache policy "$1" | sed -n 's/^  Candidate: \([0-9].*\)/\1/p'; }

# Runs a tool with the libraries next to it, wherever the folder now is. One file, as many names as there are tools.
write_wrapper() {
    cat >"$1" <<'WRAPPER'
#!/bin/sh
# Runs the tool of this name from ../tools, with the dynamic linker and the libraries it was built for.
self=$(readlink -f -- "$0")
usr=${self%/*/*}/tools/usr
for linker in "$usr"/lib/*/ld-linux*.so*; do
    exec "$linker" --library-path "${linker%/*}" "$usr/bin/${self##*/}" "$@"
done
WRAPPER
    chmod +x "$1"
}

# Makes .deps/root (headers, CMake packages, Catch2) and .deps/bin (glslang and SPIR-V tools). The stamp is written last, so
# that an interrupted run is repaired by the next one.
unpack_deps() {
    new=$deps/new
    rm -rf "$new" "$deps/stamp"
    # shellcheck disable=SC2086
    {
        unpack trixie "$new/root" $headers_trixie
        unpack bookworm-backports "$new/root" $headers_backports
        unpack trixie "$new/tools" $tools_trixie
    }
    # The Vulkan loader's link and CMake package go: the loader itself is not here, and volk opens it at run time.
    (cd "$new/root/usr" && rm -rf lib/*/libvulkan.so lib/*/cmake/VulkanLoader lib/*/pkgconfig share/pkgconfig share/doc share/vulkan)
    (cd "$new/tools/usr" && rm -rf include share lib/*/gconv lib/*/cmake lib/*/pkgconfig lib/*/*.a)
    mkdir "$new/bin"
    for tool in $tools; do write_wrapper "$new/bin/$tool"; done
    for folder in root tools bin; do
        rm -rf "${deps:?}/$folder"
        mv "$new/$folder" "$deps/$folder"
    done
    rmdir "$new"
    "$deps/bin/glslang" --version >/dev/null || fail "The unpacked glslang does not run on this machine: $deps/bin/glslang"
    printf '%s\n' "$stamp" >"$deps/stamp"
}

stamped() { [ "$(cat "$deps/stamp" 2>/dev/null)" = "$stamp" ]; }

# Whether headers, glslang and Catch2 are recent enough: the system's, or those of .deps.
have_recent() { recent_enough installed_version || stamped; }

# Gets them: from the system's packages if those are recent enough, else into .deps.
get_recent() {
    if [ -z "$(offered_version libvulkan-dev)" ] && can_be_root; then update_lists; fi
    if recent_enough offered_version; then
        # shellcheck disable=SC2046
        install $(printf '%s\n' "$recent" | awk '{ print $1 }')
    else
        unpack_deps
    fi
}

# ------------------------------------------------------------------------------------------------------------ commands

get_deps() {
    if ! command -v apt-get >/dev/null; then
        say "This system has no apt: install the libraries that README.md lists by hand."
        return
    fi
    # shellcheck disable=SC2086
    install $packages
    if have_recent; then return; fi
    mkdir -p "$deps"
    exec 9>"$deps/lock" # two runs at a time take turns
    flock 9
    have_recent || get_recent
    exec 9>&-
}

check_cmake() {
    version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version //p')
    [ -n "$version" ] || fail "CMake is missing: version 3.25 or newer is needed."
    [ "$(printf '%s\n3.25\n' "$version" | sort -V | head -n 1)" = 3.25 ] ||
        fail "CMake $version is too old: version 3.25 or newer is needed for workflow presets."
}

demo() {
    get_deps
    check_cmake
    cd "$repo"
    cmake --workflow --preset demo
    exec build/demo/samples/vkmoe/vkmoe demo
}

# Two fuzzers for a minute, two for a quarter of one, where there is a clang.
run_fuzzers() {
    if command -v clang++ >/dev/null; then
        cmake --workflow --preset fuzz
    else
        say "The fuzzers are left out: they need clang++ and libFuzzer."
    fi
}

# The tests themselves are compiled alike in every build tree. Paths below the repository are relative to the cache.
use_compiler_cache() {
    command -v ccache >/dev/null || return 0
    export CMAKE_CXX_COMPILER_LAUNCHER="${CMAKE_CXX_COMPILER_LAUNCHER-ccache}" CCACHE_BASEDIR="$repo" CCACHE_NOHASHDIR=1 \
        CCACHE_DEPEND=1 CCACHE_SLOPPINESS=pch_defines,time_macros
}

# Runs all test presets even if one fails, so that the last lines are always the summary of the plain build.
run_tests() {
    get_deps
    # shellcheck disable=SC2086
    if command -v apt-get >/dev/null; then install $test_packages; fi
    check_cmake
    sh "$repo/tests/drivers.sh" fetch || say "The tests go on with the Vulkan drivers at hand."
    cd "$repo"
    CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
    export CMAKE_BUILD_PARALLEL_LEVEL
    use_compiler_cache
    status=0
    cmake --workflow --preset asan || { status=1; say "The tests under ASan and UBSan failed, as told above; those of the plain build follow."; }
    run_fuzzers || { status=1; say "The fuzzers found something, as told above; the tests of the plain build follow."; }
    cmake --workflow --preset test || status=1
    exit "$status"
}

usage() { fail "Usage: sh cmake/bootstrap.sh deps|demo|test|drivers"; }

case ${1-} in
    deps) get_deps ;;
    demo) demo ;;
    test) run_tests ;;
    drivers) exec sh "$repo/tests/drivers.sh" fetch ;;
    unpack) [ $# -ge 4 ] || usage; shift; unpack "$@" ;;
    mirror) debian_mirror | cut -d' ' -f1 ;;
    *) usage ;;
esac
