// libFuzzer entry of the safetensors and layer file readers. The first byte says what the others are:
//
//     '0'  a layer file
//     '1'  the JSON of a description
//     '2'  an index: the JSON, a zero byte, and the bytes of every file that it names
//
// Whatever they are, the readers give an error of one line or a model whose tensors lie in the file.
#include <algorithm>

#include "engine/formats/check_values.h"
#include "engine/formats/description_json.h"
#include "engine/formats/layer_file.h"
#include "tests/fuzz/expectations.h"

namespace {

using namespace vkmoe;
using namespace vkmoe::formats;

using Input = std::span<const uint8_t>;

void checkModel(const Result<ModelSource>& model) {
    if (!model) return fuzz::checkError(model.error());
    for (const LayerSource& layer : model.value().layers) {
        fuzz::expect(bool(validate(layer.description)));
        fuzz::checkTensors(layer);
        if (const auto values = checkValues(layer); !values) fuzz::checkError(values.error());
    }
}

void readFile(Input input) {
    auto files = SafetensorsFiles::open(memorySource("fuzz.safetensors", fuzz::copyOf(input.data(), input.size())));
    if (!files) return fuzz::checkError(files.error(), "fuzz.safetensors: ");
    checkModel(readLayerFile(files.value()));
}

// What was read is written, read again and written again: the texts are the same.
void readDescription(Input input) {
    const std::string given(reinterpret_cast<const char*>(input.data()), input.size());
    const auto json = DescriptionJson::read("fuzz.json", {{kDescriptionKey, given}});
    const auto apart = DescriptionJson::read("fuzz.json", {{"layers.0", given}});  // a layer's own text
    if (!apart) fuzz::checkError(apart.error(), "fuzz.json: ");
    if (!json) return fuzz::checkError(json.error(), "fuzz.json: ");
    const Description first = json.value().layer(0).description;
    const std::string text = descriptionToJson({&first, 1});
    const auto again = DescriptionJson::read("fuzz.json", {{kDescriptionKey, text}});
    fuzz::expect(bool(again));
    const Description second = again.value().layer(0).description;
    fuzz::expect(descriptionToJson({&second, 1}) == text);
}

void readIndex(Input input) {
    const auto end = std::find(input.begin(), input.end(), 0);
    const auto index = memorySource("fuzz.index.json", fuzz::copyOf(input.data(), size_t(end - input.begin())));
    const Input shard = end == input.end() ? Input() : Input(end + 1, input.end());
    const OpenShard open = [&](const std::string& name) -> Result<std::shared_ptr<const ByteSource>> {
        fuzz::expect(name.find('/') == name.npos && name.ends_with(".safetensors"));
        return memorySource(name, fuzz::copyOf(shard.data(), shard.size()));
    };
    auto files = SafetensorsFiles::openIndex(*index, open);
    if (!files) return fuzz::checkError(files.error());
    checkModel(readLayerFile(files.value()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const Input input(data + 1, size - 1);
    if (data[0] == '0') readFile(input);
    if (data[0] == '1') readDescription(input);
    if (data[0] == '2') readIndex(input);
    return 0;
}
