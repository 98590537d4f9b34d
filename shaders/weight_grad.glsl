// What the forms of expert_weight_grad share: whose slots a workgroup adds up, and where their sums go.
//
// c_carry: the slots are a chunk of a micro-batch. `carried` [experts+1] counts those of earlier chunks; the blocks of R32
// go on where they ended: `partials` holds the sum of the unfinished block if carried % 32 is not 0, `totals` that of the
// blocks before if there are any, both at the words of the gradient. With `last` the gradient is added, else both are kept.
//
// c_fresh: what is in the pages counts for nothing, as if it were zero: it is not read. Experts without slots get zeros.

// The workgroup's rows and columns begin here; its page, its slots, and how many there were before.
uint number, row0, col0, first, end, before;

// The pages that the expert's sums go to.
bool are_here(uint expert) {
    return is_here(p.pages, expert) && (c_carry == 0u || (is_here(p.totals, expert) && is_here(p.partials, expert)));
}

// The sums go to the gradient.
bool is_last() { return c_carry == 0u || p.last != 0u; }

// (expert, column tile of `width`, row tile), row tiles fastest.
bool find_work(uint width) {
    uint row_tiles = (p.rows + kTileRows - 1u) / kTileRows, col_tiles = (p.cols + width - 1u) / width;
    uint expert = group_index() / row_tiles / col_tiles;
    if (expert >= (c_dense != 0u ? 1u : p.experts)) return false;
    row0 = group_index() % row_tiles * kTileRows;
    col0 = group_index() / row_tiles % col_tiles * width;
    if (c_dense == 0u && !are_here(expert)) return false;
    number = c_dense != 0u ? p.dense_page : expert;
    first = c_dense != 0u ? 0u : p.offsets.at[expert];
    end = c_dense != 0u ? p.count : p.offsets.at[expert + 1u];
    before = c_carry != 0u ? p.carried.at[c_dense != 0u ? p.experts : expert] : 0u;
    return end != first || (is_last() && (before != 0u || c_fresh != 0u));
}

// Of an element of the matrix.
uint gradient_word(uint row, uint col) { return p.weight + (row / kPanel * p.cols + col) * kPanel + row % kPanel; }

// The gradient at `word`, as it is stored.
float stored_gradient(float sum, uint word) { return state_rule(checked(sum, p.status, word)); }

void add_gradient(U32 page, uint word, float total) {
    float sum = c_fresh != 0u ? total : uintBitsToFloat(page.at[word]) + total;
    page.at[word] = floatBitsToUint(stored_gradient(sum, word));
}
