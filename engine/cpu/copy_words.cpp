#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void copy_words(const CopyWords& p, const Constants&, Groups groups) {
    eachThread(groups, uint64_t{p.pages} * p.count, [&](uint32_t i) {
        uint32_t page = p.first_page + i / p.count, word = i % p.count;
        p.target.at[page].at[p.target_at + word] = p.source.at[page].at[p.source_at + word];
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
