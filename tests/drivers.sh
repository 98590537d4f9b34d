#!/bin/sh
# Vulkan drivers to test on without a GPU.
#
#   sh tests/drivers.sh fetch               download Mesa 25's lavapipe, SwiftShader and a new validation layer into .deps/drivers
#   sh tests/drivers.sh fetch sid           make a Debian sid root there, for the newest lavapipe (root only, 700 MB)
#   sh tests/drivers.sh list                the configurations this machine has, one a line
#   sh tests/drivers.sh run [OPTION...] CONFIG COMMAND...
#                                           run COMMAND with no other Vulkan driver than CONFIG's
#       --validate    with the validation layer: core, synchronisation and threading checks
#                     (synchronisation: of copies and descriptors, for the layer cannot see through buffer addresses)
#       --gpuav       with the validation layer's checks inside shaders: buffer addresses out of bounds (not on
#                     swiftshader, whose lack of 64-bit integers prevents it) and races in shared memory
#                     A message of the layer makes the run fail, whatever COMMAND's exit status is. The layer also
#                     prints one line to COMMAND's standard output, to say where it writes its messages.
#       --leaks       with the environment that `leaks` prints
#   sh tests/drivers.sh leaks               print, for eval, the environment that keeps LSan and TSan to our own faults
#
# CONFIG is a name that list prints, or none (no driver at all), or mock (a driver that accepts everything and computes
# nothing). lavapipeN is Mesa N's software driver; -w128, -w512 set its vector width, which makes subgroups of 4 and 16.
set -eu

tests=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
repo=${tests%/*}
drivers=$repo/.deps/drivers

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
usage() { fail "Usage: sh tests/drivers.sh fetch [sid] | list | run [--validate|--gpuav] [--leaks] CONFIG COMMAND... | leaks"; }

# -------------------------------------------------------------------------------------------------------------- fetching

# unpack SUITE FOLDER PACKAGE...: downloads and unpacks Debian packages.
unpack() { sh "$repo/cmake/bootstrap.sh" unpack "$@"; }

# finish NEW NAME: gives a complete driver its name in one step, so that a folder of that name is always whole.
finish() {
    rm -rf "${drivers:?}/$2"
    mv "$1" "$drivers/$2"
}

# The major version of the installed Mesa: 22 on Debian 12.
stock_mesa() { dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null | sed 's/^[0-9]*://; s/[^0-9].*//'; }

# Mesa 25's lavapipe, for Debian 12: one library, which runs on the libraries that Mesa 22 brought.
fetch_lavapipe25() {
    mesa=$(stock_mesa)
    if [ -d "$drivers/lavapipe25" ] || [ "${mesa:-0}" -ge 25 ]; then return; fi
    unpack bookworm-backports "$new/package" mesa-vulkan-drivers
    mkdir "$new/lavapipe25"
    mv "$new"/package/usr/lib/*/libvulkan_lvp.so "$new/lavapipe25"
    sed 's|"library_path": *"[^"]*"|"library_path": "./libvulkan_lvp.so"|' \
        "$new"/package/usr/share/vulkan/icd.d/lvp_icd*.json >"$new/lavapipe25/icd.json"
    lacking=$(ldd "$new/lavapipe25/libvulkan_lvp.so" | sed -n 's/ => not found//p' | tr -d '\n\t')
    [ -z "$lacking" ] || fail "Mesa 25's lavapipe does not run on this machine, which lacks: $lacking"
    rm -r "$new/package"
    finish "$new/lavapipe25" lavapipe25
}

# SwiftShader, the mock driver and the validation layer: Chromium carries all three.
fetch_chromium() {
    [ ! -d "$drivers/chromium" ] || return 0
    unpack own "$new/package" chromium-common
    mkdir "$new/chromium"
    for library in vk_swiftshader VkICD_mock_icd VkLayer_khronos_validation; do
        mv "$new/package/usr/lib/chromium/lib$library.so" "$new/chromium"
    done
    rm -r "$new/package"
    write_driver_manifest vk_swiftshader 1.3.0 >"$new/chromium/swiftshader.json"
    write_driver_manifest VkICD_mock_icd 1.4.0 >"$new/chromium/mock.json"
    mkdir "$new/chromium/layer" "$new/chromium/validate" "$new/chromium/gpuav"
    write_layer_manifest >"$new/chromium/layer/VkLayer_khronos_validation.json"
    write_layer_settings validate_core validate_sync syncval_shader_accesses_heuristic thread_safety \
        >"$new/chromium/validate/vk_layer_settings.txt"
    write_layer_settings gpuav_enable gpuav_shader_instrumentation gpuav_buffer_address_oob gpuav_shared_memory_data_race \
        >"$new/chromium/gpuav/vk_layer_settings.txt"
    # It warns of each feature that it turns on for itself.
    printf 'khronos_validation.message_id_filter = WARNING-Setting-Limit-Adjusted\n' >>"$new/chromium/gpuav/vk_layer_settings.txt"
    finish "$new/chromium" chromium
}

write_driver_manifest() {
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "./lib%s.so", "api_version": "%s"}}\n' "$1" "$2"
}

write_layer_manifest() {
    cat <<'JSON'
{
    "file_format_version": "1.2.0",
    "layer": {
        "name": "VK_LAYER_KHRONOS_validation",
        "type": "GLOBAL",
        "library_path": "../libVkLayer_khronos_validation.so",
        "api_version": "1.4.350",
        "implementation_version": "1",
        "description": "Khronos validation layer",
        "instance_extensions": [
            {"name": "VK_EXT_debug_report", "spec_version": "10"},
            {"name": "VK_EXT_debug_utils", "spec_version": "2"},
            {"name": "VK_EXT_layer_settings", "spec_version": "2"},
            {"name": "VK_EXT_validation_features", "spec_version": "6"},
            {"name": "VK_EXT_validation_flags", "spec_version": "3"}
        ]
    }
}
JSON
}

# write_layer_settings CHECK...: these checks and no other; messages go to file descriptor 9 (see run_validated).
write_layer_settings() {
    for check in validate_core validate_sync thread_safety; do
        case " $* " in *" $check "*) ;; *) printf 'khronos_validation.%s = false\n' "$check" ;; esac
    done
    printf 'khronos_validation.%s = true\n' "$@"
    cat <<'SETTINGS'
khronos_validation.report_flags = error,warn
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.log_filename = /proc/self/fd/9
khronos_validation.enable_message_limit = true
khronos_validation.duplicate_message_limit = 3
SETTINGS
}

# A dlclose that does nothing: sanitizers cannot name, nor suppress, what happened in a driver that is no longer loaded.
build_keep_loaded() {
    [ ! -e "$drivers/libkeep_loaded.so" ] || return 0
    printf 'int dlclose(void* handle) { (void)handle; return 0; }\n' >"$new/keep_loaded.c"
    cc -shared -fPIC -O1 -o "$new/libkeep_loaded.so" "$new/keep_loaded.c" ||
        fail "The library for the leak checks did not compile, which needs a C compiler named cc."
    mv "$new/libkeep_loaded.so" "$drivers"
}

# A Debian sid system to run programs in: its lavapipe is the newest Mesa there is.
fetch_sid() {
    [ ! -d "$drivers/sid" ] || return 0
    [ "$(id -u)" = 0 ] || fail "Only root can make a Debian sid root, because it is used through chroot."
    command -v debootstrap >/dev/null || fail "debootstrap is missing. Run: apt-get install debootstrap"
    say "Making a Debian sid root in .deps/drivers/sid, which takes a few minutes."
    # Its mounts are private, so that an interrupted run leaves none behind.
    unshare --mount debootstrap --variant=minbase --include=mesa-vulkan-drivers,libvulkan1 sid "$new/sid" \
        "$(sh "$repo/cmake/bootstrap.sh" mirror)" >"$drivers/sid.log" 2>&1 ||
        fail "The Debian sid root could not be made; .deps/drivers/sid.log says why."
    rm -rf "$new"/sid/var/cache/apt/archives/*.deb "$new"/sid/var/lib/apt/lists/*
    finish "$new/sid" sid
}

fetch() {
    command -v dpkg-deb >/dev/null || fail "The further drivers are unpacked from Debian packages, and this system has no dpkg."
    mkdir -p "$drivers"
    exec 9>"$drivers/lock" # two runs at a time take turns
    flock 9
    new=$drivers/new
    rm -rf "$new"
    mkdir "$new"
    if [ "${1-}" = sid ]; then
        fetch_sid
    else
        build_keep_loaded
        fetch_lavapipe25
        fetch_chromium
    fi
    rm -rf "$new"
    exec 9>&-
}

# --------------------------------------------------------------------------------------------------------------- running

stock_manifest() {
    for manifest in /usr/share/vulkan/icd.d/lvp_icd*.json; do
        [ ! -e "$manifest" ] || printf '%s\n' "$manifest"
    done | head -n 1
}

list() {
    [ -z "$(stock_manifest)" ] || list_widths "lavapipe$(stock_mesa)"
    [ ! -d "$drivers/lavapipe25" ] || list_widths lavapipe25
    [ ! -d "$drivers/chromium" ] || printf 'swiftshader\n'
    if [ -d "$drivers/sid" ] && [ "$(id -u)" = 0 ]; then list_widths sid; fi
}

list_widths() { printf '%s\n' "$1" "$1-w128" "$1-w512"; }

# use_driver CONFIG: points the Vulkan loader at that driver alone.
use_driver() {
    unset LP_NATIVE_VECTOR_WIDTH
    case $1 in *-w*) export LP_NATIVE_VECTOR_WIDTH="${1##*-w}" ;; esac
    case ${1%-w*} in
        none) manifest=/nonexistent ;;
        sid) manifest=/usr/share/vulkan/icd.d/lvp_icd.json ;;
        swiftshader | mock) manifest=$drivers/chromium/$1.json ;;
        "lavapipe$(stock_mesa)") manifest=$(stock_manifest) ;;
        *) manifest=$drivers/${1%-w*}/icd.json ;;
    esac
    case ${1%-w*} in
        none | sid) ;;
        *) [ -e "$manifest" ] || fail "There is no driver configuration $1 here; fetch downloads drivers, list prints those there are." ;;
    esac
    export VK_DRIVER_FILES="$manifest" VK_ICD_FILENAMES="$manifest" # older loaders know the second name only
}

# use_layer CHECKS: loads the validation layer with the settings of that name.
use_layer() {
    [ -d "$drivers/chromium" ] || fail "The validation layer is not here; fetch downloads it."
    export VK_LAYER_PATH="$drivers/chromium/layer" VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation
    export VK_LAYER_SETTINGS_PATH="$drivers/chromium/$1/vk_layer_settings.txt"
}

# run_validated COMMAND...: the layer writes to descriptor 9, a pipe that ends here; COMMAND's own output goes where it always did.
run_validated() {
    exec 3>&1
    status=0
    messages=$(exec 9>&1 >&3 3>&-; "$@") || status=$?
    if [ -n "$messages" ]; then
        say "$messages"
        say "The validation layer reported the messages above."
        [ "$status" != 0 ] || status=1
    fi
    exit "$status"
}

# run_in_sid COMMAND...: COMMAND sees the repository and /tmp where they always are. It runs with sid's libraries, and with
# this machine's for what sid lacks. The mounts are private and end with it.
run_in_sid() {
    [ "$(id -u)" = 0 ] || fail "Only root can run a program in the Debian sid root."
    [ -d "$drivers/sid" ] || fail "There is no Debian sid root here; 'sh tests/drivers.sh fetch sid' makes one."
    # shellcheck disable=SC2016
    exec unshare --mount sh -eu -c '
        root=$1 repo=$2
        shift 2
        mkdir -p "$root/host" "$root$repo"
        for folder in /proc /dev /sys /tmp; do mount --rbind "$folder" "$root$folder"; done
        mount --bind /usr/lib "$root/host"
        mount --bind "$repo" "$root$repo"
        here=$(pwd)
        triplet=$(basename "$(dirname "$(ls "$root"/usr/lib/*/libc.so.6)")")
        export LD_LIBRARY_PATH="/usr/lib/$triplet:/host/$triplet${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" HOME=/root
        exec chroot "$root" sh -c "cd \"\$1\" && shift && exec \"\$@\"" sh "$here" "$@"
    ' sh "$drivers/sid" "$repo" "$@"
}

leaks() {
    [ -e "$drivers/libkeep_loaded.so" ] || fail "The library for the leak checks is not here; fetch compiles it."
    # LD_PRELOAD splits its value at spaces, LD_LIBRARY_PATH does not.
    printf "export LD_PRELOAD=libkeep_loaded.so LD_LIBRARY_PATH='%s'\n" "$drivers${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    printf "export ASAN_OPTIONS='verify_asan_link_order=0%s'\n" "${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
    printf "export LSAN_OPTIONS='suppressions=\"%s\":print_suppressions=0%s'\n" "$tests/lsan.supp" "${LSAN_OPTIONS:+:$LSAN_OPTIONS}"
    printf "export TSAN_OPTIONS='suppressions=\"%s\"%s'\n" "$tests/tsan.supp" "${TSAN_OPTIONS:+:$TSAN_OPTIONS}"
}

run() {
    checks=''
    while :; do
        case ${1-} in
            --validate | --gpuav) checks=${1#--} ;;
            --leaks) settings=$(leaks) && eval "$settings" ;;
            --*) usage ;;
            *) break ;;
        esac
        shift
    done
    [ $# -ge 2 ] || usage
    use_driver "$1"
    launch="exec"
    case $1 in sid*) launch=run_in_sid ;; esac
    shift
    if [ -n "$checks" ]; then
        use_layer "$checks"
        run_validated "$launch" "$@"
    fi
    "$launch" "$@"
}

command=${1-}
[ $# -eq 0 ] || shift
case $command in
    fetch) fetch "$@" ;;
    list) list ;;
    run) run "$@" ;;
    leaks) leaks ;;
    *) usage ;;
esac
