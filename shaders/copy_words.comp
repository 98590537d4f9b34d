#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// copy_words: words of pages first_page .. first_page + pages - 1 into other pages, as they are.
//   in   source [pages]: `count` words from word source_at on
//   out  target [pages]: the same from word target_at on
// One thread a word.
KERNEL(CopyWords)

// A load from a local reference in main makes glslang ask for descriptor arrays.
uint word_at(U32 page, uint at) { return page.at[at]; }

void main() {
    uint i = thread_index(), page = p.first_page + i / p.count, word = i % p.count;
    if (i >= p.pages * p.count) return;
    U32 source = p.source.at[page], target = p.target.at[page];
    target.at[p.target_at + word] = word_at(source, p.source_at + word);
}
