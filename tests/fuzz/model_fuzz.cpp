// libFuzzer entry of the readers of EVL0, EVD0 and .evermind files; the magic says which one reads the bytes. Whatever
// they are, it gives an error of one line that names the file, or what lies in the file.
//
// The checksums would refuse nearly all that is tried, so the bytes are read once more with checksums that fit.
#include <algorithm>

#include "engine/formats/check_values.h"
#include "engine/formats/crc_trailer.h"
#include "engine/formats/evl0.h"
#include "engine/formats/package.h"
#include "engine/formats/row_delta.h"
#include "tests/fuzz/expectations.h"

namespace {

using namespace vkmoe;
using namespace vkmoe::formats;

using Bytes = std::vector<std::byte>;

std::shared_ptr<const ByteSource> source(const Bytes& bytes) { return memorySource("fuzz", Bytes(bytes)); }

void checkModel(const Result<LmSource>& model) {
    if (!model) return fuzz::checkError(model.error(), "fuzz");
    fuzz::expect(bool(validate(model.value().config)));
    const auto parameters = readParameters(model.value());
    if (!parameters) return fuzz::checkError(parameters.error(), "fuzz");
    fuzz::expect(parameters.value().size() == parameterCount(model.value().config));
}

void readModel(const Bytes& bytes) {
    for (const bool compat : {false, true})
        checkModel(readEvl0(source(bytes), {.compat = compat, .max_completed_bytes = 65536}));
}

// What was read and is in order is written with the same bytes.
void readDelta(const Bytes& bytes) {
    for (const bool compat : {false, true}) {
        const auto delta = readRowDelta(*source(bytes), compat);
        if (!delta) {
            fuzz::checkError(delta.error(), "fuzz");
            continue;
        }
        if (!compat) fuzz::expect(writeRowDelta(delta.value()) == bytes);
        const std::vector<float> base(delta.value().row_size <= 4096 ? delta.value().row_size * 2 : 0);
        if (const auto applied = applyRowDelta(base, delta.value()); applied)
            fuzz::expect(applied.value().size() == base.size());
    }
}

void readOnePackage(const Bytes& bytes, bool compat) {
    const auto package = readPackage(source(bytes), compat);
    if (!package) return fuzz::checkError(package.error(), "fuzz: ");
    if (!compat) fuzz::expect(packageBytes(package.value()).value() == bytes);
    if (package.value().isLm()) return checkModel(readPackagedLm(package.value(), compat));
    const auto layer = readPackagedLayer(package.value(), compat);
    if (!layer) return fuzz::checkError(layer.error(), "fuzz");
    fuzz::checkTensors(layer.value());
}

// Puts the checkpoint's checksum where the manifest has another of as many digits.
void fixPackage(Bytes& bytes) {
    const auto package = findPackage(source(bytes));
    if (!package) return;
    const std::string wrong = package.value().manifest.shown("checksum");
    Bytes checkpoint(package.value().checkpoint_bytes);
    if (!checkpointOf(package.value())->read(0, checkpoint)) return;
    const std::string right = std::to_string(fnv1a(checkpoint));
    const auto as_byte = [](char letter) { return std::byte(letter); };
    Bytes from(wrong.size()), to(right.size());
    std::transform(wrong.begin(), wrong.end(), from.begin(), as_byte);
    std::transform(right.begin(), right.end(), to.begin(), as_byte);
    const auto at = std::search(bytes.begin() + 12, bytes.end(), from.begin(), from.end());
    if (from.size() == to.size() && at != bytes.end()) std::copy(to.begin(), to.end(), at);
}

void fixTrailer(Bytes& bytes) {
    if (bytes.size() < kTrailerBytes) return;
    bytes.resize(bytes.size() - kTrailerBytes);
    appendTrailer(bytes);
}

void readAny(const Bytes& bytes) {
    if (looksLikeEvl0(bytes)) readModel(bytes);
    if (looksLikeRowDelta(bytes)) readDelta(bytes);
    if (looksLikePackage(bytes))
        for (const bool compat : {false, true}) readOnePackage(bytes, compat);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes = fuzz::copyOf(data, size);
    readAny(bytes);
    looksLikePackage(bytes) ? fixPackage(bytes) : fixTrailer(bytes);
    readAny(bytes);
    return 0;
}
