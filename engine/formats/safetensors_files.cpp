#include "engine/formats/safetensors_files.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/formats/checked.h"
#include "engine/formats/shard_index.h"

namespace vkmoe::formats {
namespace {

// Several sources, one after the other.
class Joined : public ByteSource {
public:
    explicit Joined(std::string name) : name_(std::move(name)) {}

    void add(std::shared_ptr<const ByteSource> part) {
        starts_.push_back(size_);
        size_ += part->size();
        parts_.push_back(std::move(part));
    }

    const std::string& name() const override { return name_; }
    const std::string& nameAt(uint64_t offset) const override {
        return offset < size_ ? parts_[partAt(offset)]->name() : name_;
    }
    uint64_t size() const override { return size_; }

    Result<void> read(uint64_t offset, std::span<std::byte> into) const override {
        VKMOE_CHECK(checkRange(offset, into.size()));
        while (!into.empty()) {
            const size_t part = partAt(offset);
            const uint64_t at = offset - starts_[part];
            const uint64_t count = std::min<uint64_t>(into.size(), parts_[part]->size() - at);
            VKMOE_CHECK(parts_[part]->read(at, into.first(count)));
            into = into.subspan(count);
            offset += count;
        }
        return {};
    }

    void announce(uint64_t offset, uint64_t bytes) const override {
        eachPart(offset, bytes, [](const ByteSource& part, uint64_t at, uint64_t count) { part.announce(at, count); });
    }
    void forget(uint64_t offset, uint64_t bytes) const override {
        eachPart(offset, bytes, [](const ByteSource& part, uint64_t at, uint64_t count) { part.forget(at, count); });
    }

private:
    template <class Use>
    void eachPart(uint64_t offset, uint64_t bytes, const Use& use) const {
        if (!checkRange(offset, bytes)) return;
        while (bytes > 0) {
            const size_t part = partAt(offset);
            const uint64_t at = offset - starts_[part], count = std::min(bytes, parts_[part]->size() - at);
            use(*parts_[part], at, count);
            bytes -= count;
            offset += count;
        }
    }

    size_t partAt(uint64_t offset) const {
        return size_t(std::upper_bound(starts_.begin(), starts_.end(), offset) - starts_.begin()) - 1;
    }

    std::string name_;
    std::vector<std::shared_ptr<const ByteSource>> parts_;
    std::vector<uint64_t> starts_;
    uint64_t size_ = 0;
};

// Each tensor of a file must be mapped to that file; marks it in `there`.
Result<void> checkMapped(const std::string& index_name, const ShardIndex& index, uint32_t number,
                         const ByteSource& file, const SafetensorsHeader& header, std::vector<bool>& there) {
    for (size_t i = 0; i < header.size(); ++i) {
        const std::string_view name = header.at(i).name;
        const auto mapped = index.tensors.find(name);
        if (!mapped)
            return inputError(file.name(),
                              fmt::format("tensor {} is not in the weight_map of {}", shown(name), index_name));
        if (index.file_of[*mapped] != number)
            return inputError(file.name(), fmt::format("tensor {} is here, but the weight_map of {} has it in {}",
                                                       shown(name), index_name, index.files[index.file_of[*mapped]]));
        there[*mapped] = true;
    }
    return {};
}

}  // namespace

Result<void> SafetensorsFiles::add(std::shared_ptr<const ByteSource> bytes, const CheckName& check_name) {
    VKMOE_TRY(header, SafetensorsHeader::read(*bytes, check_name));
    for (const auto& [key, text] : header.metadata())
        if (const auto [at, added] = metadata_.try_emplace(key, text); !added && at->second != text)
            return inputError(bytes->name(), fmt::format("__metadata__ {} differs from that of {}", shown(key),
                                                         files_.front().bytes->name()));
    const uint64_t offset = files_.empty() ? 0 : files_.back().offset + files_.back().bytes->size();
    first_.push_back(first_.back() + header.size());
    files_.push_back({std::move(bytes), std::move(header), offset});
    return {};
}

Result<SafetensorsFiles> SafetensorsFiles::open(std::shared_ptr<const ByteSource> file, const CheckName& check_name) {
    SafetensorsFiles files;
    files.bytes_ = file;
    VKMOE_CHECK(files.add(std::move(file), check_name));
    return files;
}

Result<SafetensorsFiles> SafetensorsFiles::openIndex(const ByteSource& index_file, const OpenShard& open_shard,
                                                     const CheckName& check_name) {
    VKMOE_TRY(index, ShardIndex::read(index_file));
    SafetensorsFiles files;
    const auto joined = std::make_shared<Joined>(index_file.name());
    std::vector<bool> there(index.tensors.size());
    for (uint32_t number = 0; number < index.files.size(); ++number) {
        VKMOE_TRY(file, open_shard(index.files[number]));
        joined->add(file);
        VKMOE_CHECK(files.add(file, check_name));
        VKMOE_CHECK(checkMapped(index_file.name(), index, number, *file, files.files_.back().header, there));
    }
    if (const auto missing = std::find(there.begin(), there.end(), false); missing != there.end()) {
        const size_t tensor = size_t(missing - there.begin());
        return inputError(files.files_[index.file_of[tensor]].bytes->name(),
                          fmt::format("has no tensor {}, which the weight_map of {} has there",
                                      shown(index.tensors[tensor]), index_file.name()));
    }
    files.bytes_ = joined;
    return files;
}

SafetensorsTensor SafetensorsFiles::at(size_t i) const {
    const size_t shard = shardOf(i);
    SafetensorsTensor tensor = files_[shard].header.at(i - first_[shard]);
    tensor.offset += files_[shard].offset;
    return tensor;
}

size_t SafetensorsFiles::shardOf(size_t tensor) const {
    return size_t(std::upper_bound(first_.begin(), first_.end(), tensor) - first_.begin()) - 1;
}

}  // namespace vkmoe::formats
