#include "shaders/contract/contract.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "shaders/contract/rules.h"

namespace vkmoe::spirv {

using spv::Op;

namespace {

constexpr uint64_t kSharedMemory = 16384;  // bytes every Vulkan device has

bool isFma(const Instruction& instruction) { return instruction.op == Op::OpExtInst && isGlslFma(instruction[4]); }
bool needsNoContraction(const Instruction& instruction) { return isArithmetic(instruction.op) || isFma(instruction); }

bool isZeroWord(uint32_t word) { return (word & 0x7fffffff) == 0; }

// What is known of an id from the text alone.
struct Value {
    bool is_float = false;  // a float or vector of floats, or the type of one
    bool constant = false;  // fixed before the kernel runs, spec constants included
    bool zero = false;      // a constant that is +-0.0, or has such a component
};

// Walks the module once, in order; an id that is not yet defined (only OpPhi has any) counts as an unknown value.
class Scan {
public:
    Scan(const Module& module, Contract contract) : module_(module), contract_(contract), values_(module.bound()) {}

    std::vector<std::string> run() {
        for (const Instruction& instruction : module_.instructions()) {
            if (instruction.op == Op::OpFunction) function_ = instruction.result;
            learn(instruction);
            measure(instruction);
            check(instruction);
            if (instruction.op == Op::OpFunctionEnd) function_ = 0;
        }
        if (shared_ > kSharedMemory)
            refuse("shared variables of " + std::to_string(shared_) + " bytes: devices may have no more than " +
                   std::to_string(kSharedMemory));
        return std::move(found_);
    }

private:
    const Value& value(uint32_t id) const { return values_[id < values_.size() ? id : 0]; }

    void learn(const Instruction& instruction);
    Value describe(const Instruction& instruction) const;
    Value combine(const Instruction& instruction, size_t first, size_t last) const;

    void check(const Instruction& instruction);
    void checkDeclaration(const Instruction& instruction);
    void checkExtInst(const Instruction& instruction);
    void checkOperands(const Instruction& instruction, size_t first, const std::string& what);
    void checkIntegers(const Instruction& instruction);
    void checkSpecConstantOp(const Instruction& instruction);
    void measure(const Instruction& instruction);
    bool isInside(const char* prefix) const { return function_ && module_.name(function_).starts_with(prefix); }
    void refuse(const std::string& why);

    const Module& module_;
    Contract contract_;
    std::vector<Value> values_;                       // by id
    std::unordered_map<uint32_t, uint64_t> bytes_;    // of types, by id
    std::unordered_map<uint32_t, uint32_t> pointee_;  // of pointers to shared memory
    std::unordered_map<uint32_t, uint32_t> numbers_;  // values of constants
    uint64_t shared_ = 0;                             // bytes of the shared variables
    uint32_t function_ = 0;                           // the id of the function being read, 0 outside
    std::vector<std::string> found_;
};

void Scan::learn(const Instruction& instruction) {
    if (instruction.result) values_[instruction.result] = describe(instruction);
}

// All operands from first to last: constant if each is, zero if any is.
Value Scan::combine(const Instruction& instruction, size_t first, size_t last) const {
    Value combined{value(instruction.type).is_float, true, false};
    for (size_t index = first; index < std::min(last, instruction.words.size()); ++index) {
        combined.constant = combined.constant && value(instruction[index]).constant;
        combined.zero = combined.zero || value(instruction[index]).zero;
    }
    return combined;
}

Value Scan::describe(const Instruction& instruction) const {
    const bool is_float = value(instruction.type).is_float;
    switch (instruction.op) {
        case Op::OpTypeFloat:
            return {true};
        case Op::OpTypeVector:
            return {value(instruction[2]).is_float};
        case Op::OpConstant:
        case Op::OpSpecConstant:
            return {is_float, true, isZeroWord(instruction[3])};
        case Op::OpConstantNull:
            return {is_float, true, true};
        case Op::OpSpecConstantOp:
            return {is_float, true, false};
        case Op::OpConstantComposite:
        case Op::OpSpecConstantComposite:
        case Op::OpCompositeConstruct:
            return combine(instruction, 3, instruction.words.size());
        case Op::OpVectorShuffle:
            return combine(instruction, 3, 5);
        case Op::OpBitcast:
        case Op::OpCopyObject:
        case Op::OpFNegate:
            return combine(instruction, 3, 4);
        default:
            return {is_float};
    }
}

void Scan::check(const Instruction& instruction) {
    const Op op = instruction.op;
    if (op == Op::OpExtInst) return checkExtInst(instruction);
    if (op == Op::OpFDiv && !isInside("exact_div("))
        return refuse("OpFDiv: call exact_div, the only place for a division");
    if (isArithmetic(op)) {
        if (op != Op::OpFNegate) checkOperands(instruction, 3, arithmeticName(op));
        return;
    }
    if (!isExact(op)) return refuse(refusalOf(op));
    if (isForIntegersOnly(op)) checkIntegers(instruction);
    checkDeclaration(instruction);
}

// Adds up shared variables. An array whose length is set when the pipeline is built counts as too large.
void Scan::measure(const Instruction& instruction) {
    switch (instruction.op) {
        case Op::OpTypeBool:
            bytes_[instruction[1]] = 4;
            break;
        case Op::OpTypeInt:
        case Op::OpTypeFloat:
            bytes_[instruction[1]] = instruction[2] / 8;
            break;
        case Op::OpTypeVector:
            bytes_[instruction[1]] = bytes_[instruction[2]] * instruction[3];
            break;
        case Op::OpConstant:
            numbers_[instruction[2]] = instruction[3];
            break;
        case Op::OpTypeArray:
            bytes_[instruction[1]] = numbers_.contains(instruction[3])
                                         ? bytes_[instruction[2]] * numbers_[instruction[3]]
                                         : kSharedMemory + 1;
            break;
        case Op::OpTypePointer:
            if (instruction[2] == uint32_t(spv::StorageClass::Workgroup)) pointee_[instruction[1]] = instruction[3];
            break;
        case Op::OpVariable:
            if (instruction[3] == uint32_t(spv::StorageClass::Workgroup)) shared_ += bytes_[pointee_[instruction[1]]];
            break;
        default:
            break;
    }
}

void Scan::checkDeclaration(const Instruction& instruction) {
    const auto width = std::to_string(instruction[2]);
    switch (instruction.op) {
        case Op::OpCapability:
            if (contract_.int64 && spv::Capability(instruction[1]) == spv::Capability::Int64) break;
            if (!isAllowedCapability(instruction[1])) refuse("OpCapability: " + capabilityName(instruction[1]));
            break;
        case Op::OpExtInstImport:
            if (stringAt(instruction, 2) != "GLSL.std.450") refuse("OpExtInstImport: " + stringAt(instruction, 2));
            break;
        case Op::OpEntryPoint:
            if (instruction[1] != uint32_t(spv::ExecutionModel::GLCompute))
                refuse("OpEntryPoint: not a compute shader");
            break;
        case Op::OpExecutionMode:
        case Op::OpExecutionModeId:
            if (!isAllowedExecutionMode(instruction[2]))
                refuse("OpExecutionMode " + width + ": float modes are the host's to add");
            break;
        case Op::OpTypeInt:
            if (instruction[2] != 32 && !(contract_.int64 && instruction[2] == 64))
                refuse("OpTypeInt of " + width + " bits: use 32, devices may lack others");
            break;
        case Op::OpTypeFloat:
            if (instruction[2] != 32 || instruction.words.size() != 3)
                refuse("OpTypeFloat of " + width + " bits: only f32");
            break;
        case Op::OpDecorate:
            if (!isAllowedDecoration(instruction[2])) refuse("OpDecorate: a decoration that permits less precision");
            break;
        case Op::OpMemberDecorate:
            if (!isAllowedDecoration(instruction[3]))
                refuse("OpMemberDecorate: a decoration that permits less precision");
            break;
        case Op::OpSpecConstantOp:
            checkSpecConstantOp(instruction);
            break;
        default:
            break;
    }
}

void Scan::checkExtInst(const Instruction& instruction) {
    const uint32_t number = instruction[4];
    const std::string name = glslName(number);
    if (isGlslFma(number) && contract_.fma) return checkOperands(instruction, 5, name);
    if (isGlslFma(number)) return refuse(name + ": only in a kernel marked `rounded` in engine/kernels.inc");
    if (isGlslSqrt(number) && isInside("exact_sqrt(")) return;
    if (isGlslSqrt(number)) return refuse(name + ": call exact_sqrt, the only place for a square root");
    if (!isExactGlsl(number)) refuse(name + ": devices differ in it, see shaders/exact_math.h");
}

void Scan::checkOperands(const Instruction& instruction, size_t first, const std::string& what) {
    const Value operands = combine(instruction, first, instruction.words.size());
    if (operands.zero) refuse(what + ": an operand is the constant zero, which some compilers drop with its sign");
    if (operands.constant) refuse(what + ": every operand is a constant, write the result as a bit pattern");
}

void Scan::checkIntegers(const Instruction& instruction) {
    bool touches_float = value(instruction.type).is_float;
    for (size_t index = 1; index < instruction.words.size(); ++index)
        touches_float = touches_float || value(instruction[index]).is_float;
    if (!touches_float) return;
    const bool is_atomic = instruction.op != Op::OpGroupNonUniformAllEqual;
    refuse(is_atomic ? "OpAtomic on a float: no float atomics"
                     : "OpGroupNonUniformAllEqual on a float: compare the bits");
}

void Scan::checkSpecConstantOp(const Instruction& instruction) {
    const Op op = Op(instruction[3]);
    if (value(instruction.type).is_float) return refuse("OpSpecConstantOp: float arithmetic on constants");
    if (isArithmetic(op) || !isExact(op)) refuse("OpSpecConstantOp with opcode " + std::to_string(instruction[3]));
}

void Scan::refuse(const std::string& why) {
    const std::string name = module_.name(function_).substr(0, module_.name(function_).find('('));
    const std::string where = function_ == 0 ? "" : "in " + (name.empty() ? "a function without a name" : name) + ": ";
    found_.push_back(where + why);
}

// NoContraction per id, and how often it was given twice.
std::vector<bool> noContraction(const Module& module, size_t* repeated = nullptr) {
    std::vector<bool> decorated(module.bound());
    for (const Instruction& instruction : module.instructions()) {
        if (instruction.op != Op::OpDecorate || instruction[2] != uint32_t(spv::Decoration::NoContraction)) continue;
        if (instruction[1] >= decorated.size()) continue;
        if (repeated) *repeated += decorated[instruction[1]];
        decorated[instruction[1]] = true;
    }
    return decorated;
}

// Debug information and what stands before it. Annotations come next, then types (SPIR-V 2.4, logical layout).
// clang-format off
constexpr Op kBeforeTypes[] = {
    Op::OpCapability, Op::OpExtension, Op::OpExtInstImport, Op::OpMemoryModel, Op::OpEntryPoint,
    Op::OpExecutionMode, Op::OpExecutionModeId, Op::OpString, Op::OpSource, Op::OpSourceContinued,
    Op::OpSourceExtension, Op::OpName, Op::OpMemberName, Op::OpModuleProcessed, Op::OpDecorate, Op::OpMemberDecorate};
// clang-format on

bool standsBeforeTypes(Op op) {
    return std::find(std::begin(kBeforeTypes), std::end(kBeforeTypes), op) != std::end(kBeforeTypes);
}

}  // namespace

std::vector<std::string> violations(const Module& module, Contract contract) { return Scan(module, contract).run(); }

std::vector<uint32_t> decorate(const Module& module) {
    const auto all = module.instructions();
    const auto types = std::find_if_not(all.begin(), all.end(), [](const auto& i) { return standsBeforeTypes(i.op); });
    const size_t at = types == all.end() ? module.words().size() : size_t(types->words.data() - module.words().data());
    const std::vector<bool> decorated = noContraction(module);

    std::vector<uint32_t> words(module.words().begin(), module.words().begin() + ptrdiff_t(at));
    for (const Instruction& instruction : all) {
        if (!needsNoContraction(instruction) || decorated[instruction.result]) continue;
        words.insert(words.end(), {3u << 16 | uint32_t(Op::OpDecorate), instruction.result,
                                   uint32_t(spv::Decoration::NoContraction)});
    }
    words.insert(words.end(), module.words().begin() + ptrdiff_t(at), module.words().end());
    return words;
}

Decorated countDecorated(const Module& module) {
    Decorated count;
    const std::vector<bool> decorated = noContraction(module, &count.repeated);
    for (const Instruction& instruction : module.instructions()) {
        if (!needsNoContraction(instruction)) continue;
        ++count.results;
        count.missing += !decorated[instruction.result];
    }
    return count;
}

}  // namespace vkmoe::spirv
