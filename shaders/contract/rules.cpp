#include "shaders/contract/rules.h"

#include <spirv/unified1/GLSL.std.450.h>

#include <algorithm>
#include <iterator>

namespace vkmoe::spirv {

using spv::Op;

namespace {

using enum spv::Op;

struct Row {
    uint32_t number;
    const char* text;
};

template <class T, size_t count>
bool contains(const T (&list)[count], T item) {
    return std::find(std::begin(list), std::end(list), item) != std::end(list);
}

constexpr Row kArithmetic[] = {
    {uint32_t(OpFAdd), "OpFAdd"}, {uint32_t(OpFSub), "OpFSub"},       {uint32_t(OpFMul), "OpFMul"},
    {uint32_t(OpFDiv), "OpFDiv"}, {uint32_t(OpFNegate), "OpFNegate"},
};

// clang-format off

// Debug information, types, constants, annotations. What some of them hold is checked one by one (contract.cpp).
constexpr Op kDeclarations[] = {
    OpNop, OpSourceContinued, OpSource, OpSourceExtension, OpName, OpMemberName, OpString, OpLine, OpNoLine,
    OpModuleProcessed, OpExtension, OpExtInstImport, OpMemoryModel, OpEntryPoint, OpExecutionMode,
    OpExecutionModeId, OpCapability, OpDecorate, OpMemberDecorate, OpTypeVoid, OpTypeBool, OpTypeInt, OpTypeFloat,
    OpTypeVector, OpTypeArray, OpTypeRuntimeArray, OpTypeStruct, OpTypePointer, OpTypeForwardPointer,
    OpTypeFunction, OpConstantTrue, OpConstantFalse, OpConstant, OpConstantComposite, OpConstantNull,
    OpSpecConstantTrue, OpSpecConstantFalse, OpSpecConstant, OpSpecConstantComposite, OpSpecConstantOp};

constexpr Op kControlAndMemory[] = {
    OpFunction, OpFunctionParameter, OpFunctionEnd, OpFunctionCall, OpPhi, OpLoopMerge, OpSelectionMerge, OpLabel,
    OpBranch, OpBranchConditional, OpSwitch, OpReturn, OpReturnValue, OpUnreachable, OpControlBarrier,
    OpMemoryBarrier, OpVariable, OpLoad, OpStore, OpCopyMemory, OpAccessChain, OpInBoundsAccessChain,
    OpPtrAccessChain, OpInBoundsPtrAccessChain, OpArrayLength, OpPtrEqual, OpPtrNotEqual, OpVectorExtractDynamic,
    OpVectorInsertDynamic, OpVectorShuffle, OpCompositeConstruct, OpCompositeExtract, OpCompositeInsert,
    OpCopyObject, OpCopyLogical, OpSelect};

// The conversions to float round if the integer needs more than 24 bits; that it does not is the kernel's duty.
constexpr Op kIntegersAndConversions[] = {
    OpSNegate, OpIAdd, OpISub, OpIMul, OpUDiv, OpSDiv, OpUMod, OpSRem, OpSMod, OpIAddCarry, OpISubBorrow,
    OpUMulExtended, OpSMulExtended, OpShiftRightLogical, OpShiftRightArithmetic, OpShiftLeftLogical, OpBitwiseOr,
    OpBitwiseXor, OpBitwiseAnd, OpNot, OpBitFieldInsert, OpBitFieldSExtract, OpBitFieldUExtract, OpBitReverse,
    OpBitCount, OpConvertFToU, OpConvertFToS, OpConvertSToF, OpConvertUToF, OpBitcast};

constexpr Op kComparisons[] = {
    OpAny, OpAll, OpLogicalEqual, OpLogicalNotEqual, OpLogicalOr, OpLogicalAnd, OpLogicalNot, OpIEqual, OpINotEqual,
    OpUGreaterThan, OpSGreaterThan, OpUGreaterThanEqual, OpSGreaterThanEqual, OpULessThan, OpSLessThan,
    OpULessThanEqual, OpSLessThanEqual, OpFOrdEqual, OpFUnordEqual, OpFOrdNotEqual, OpFUnordNotEqual,
    OpFOrdLessThan, OpFUnordLessThan, OpFOrdGreaterThan, OpFUnordGreaterThan, OpFOrdLessThanEqual,
    OpFUnordLessThanEqual, OpFOrdGreaterThanEqual, OpFUnordGreaterThanEqual};

// Integer atomics, and subgroup operations that move bits or combine integers.
constexpr Op kShared[] = {
    OpAtomicLoad, OpAtomicStore, OpAtomicExchange, OpAtomicCompareExchange, OpAtomicIIncrement, OpAtomicIDecrement,
    OpAtomicIAdd, OpAtomicISub, OpAtomicSMin, OpAtomicUMin, OpAtomicSMax, OpAtomicUMax, OpAtomicAnd, OpAtomicOr,
    OpAtomicXor, OpGroupNonUniformElect, OpGroupNonUniformAll, OpGroupNonUniformAny, OpGroupNonUniformAllEqual,
    OpGroupNonUniformBroadcast, OpGroupNonUniformBroadcastFirst, OpGroupNonUniformBallot,
    OpGroupNonUniformInverseBallot, OpGroupNonUniformBallotBitExtract, OpGroupNonUniformBallotBitCount,
    OpGroupNonUniformBallotFindLSB, OpGroupNonUniformBallotFindMSB, OpGroupNonUniformShuffle,
    OpGroupNonUniformShuffleXor, OpGroupNonUniformShuffleUp, OpGroupNonUniformShuffleDown, OpGroupNonUniformIAdd,
    OpGroupNonUniformIMul, OpGroupNonUniformSMin, OpGroupNonUniformUMin, OpGroupNonUniformSMax,
    OpGroupNonUniformUMax, OpGroupNonUniformBitwiseAnd, OpGroupNonUniformBitwiseOr, OpGroupNonUniformBitwiseXor,
    OpGroupNonUniformLogicalAnd, OpGroupNonUniformLogicalOr, OpGroupNonUniformLogicalXor};

constexpr Op kIntegersOnly[] = {
    OpAtomicLoad, OpAtomicStore, OpAtomicExchange, OpAtomicCompareExchange, OpGroupNonUniformAllEqual};

constexpr spv::Capability kAllowedCapabilities[] = {
    spv::Capability::Shader, spv::Capability::PhysicalStorageBufferAddresses, spv::Capability::VulkanMemoryModel,
    spv::Capability::GroupNonUniform, spv::Capability::GroupNonUniformVote,
    spv::Capability::GroupNonUniformArithmetic, spv::Capability::GroupNonUniformBallot,
    spv::Capability::GroupNonUniformShuffle, spv::Capability::GroupNonUniformShuffleRelative};

constexpr uint32_t kExactGlsl[] = {
    GLSLstd450FAbs, GLSLstd450SAbs, GLSLstd450SSign, GLSLstd450UMin, GLSLstd450SMin, GLSLstd450UMax, GLSLstd450SMax,
    GLSLstd450UClamp, GLSLstd450SClamp, GLSLstd450FindILsb, GLSLstd450FindSMsb, GLSLstd450FindUMsb};

// clang-format on

}  // namespace

const char* arithmeticName(Op op) {
    for (const Row& row : kArithmetic)
        if (row.number == uint32_t(op)) return row.text;
    return nullptr;
}

bool isArithmetic(Op op) { return arithmeticName(op) != nullptr; }

bool isExact(Op op) {
    return contains(kDeclarations, op) || contains(kControlAndMemory, op) || contains(kIntegersAndConversions, op) ||
           contains(kComparisons, op) || contains(kShared, op);
}

bool isForIntegersOnly(Op op) { return contains(kIntegersOnly, op); }

bool isAllowedCapability(uint32_t capability) { return contains(kAllowedCapabilities, spv::Capability(capability)); }

bool isAllowedExecutionMode(uint32_t mode) {
    return mode == uint32_t(spv::ExecutionMode::LocalSize) || mode == uint32_t(spv::ExecutionMode::LocalSizeId);
}

bool isAllowedDecoration(uint32_t decoration) {
    return decoration != uint32_t(spv::Decoration::RelaxedPrecision) &&
           decoration != uint32_t(spv::Decoration::FPRoundingMode) &&
           decoration != uint32_t(spv::Decoration::FPFastMathMode);
}

bool isExactGlsl(uint32_t number) { return contains(kExactGlsl, number); }

bool isGlslFma(uint32_t number) { return number == GLSLstd450Fma; }
bool isGlslSqrt(uint32_t number) { return number == GLSLstd450Sqrt; }

std::string glslName(uint32_t number) {
    // clang-format off
    static const char* const names[] = {
        "0", "Round", "RoundEven", "Trunc", "FAbs", "SAbs", "FSign", "SSign", "Floor", "Ceil", "Fract",
        "Radians", "Degrees", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh",
        "Acosh", "Atanh", "Atan2", "Pow", "Exp", "Log", "Exp2", "Log2", "Sqrt", "InverseSqrt", "Determinant",
        "MatrixInverse", "Modf", "ModfStruct", "FMin", "UMin", "SMin", "FMax", "UMax", "SMax", "FClamp",
        "UClamp", "SClamp", "FMix", "IMix", "Step", "SmoothStep", "Fma", "Frexp", "FrexpStruct", "Ldexp",
        "PackSnorm4x8", "PackUnorm4x8", "PackSnorm2x16", "PackUnorm2x16", "PackHalf2x16", "PackDouble2x32",
        "UnpackSnorm2x16", "UnpackUnorm2x16", "UnpackHalf2x16", "UnpackSnorm4x8", "UnpackUnorm4x8",
        "UnpackDouble2x32", "Length", "Distance", "Cross", "Normalize", "FaceForward", "Reflect", "Refract",
        "FindILsb", "FindSMsb", "FindUMsb", "InterpolateAtCentroid", "InterpolateAtSample",
        "InterpolateAtOffset", "NMin", "NMax", "NClamp"};
    // clang-format on
    return std::string("GLSL.std.450 ") + (number < std::size(names) ? names[number] : std::to_string(number));
}

namespace {

// Numbers instead of names are those that older SPIR-V headers lack.
constexpr Row kCapabilities[] = {
    {uint32_t(spv::Capability::Matrix), "Matrix"},
    {uint32_t(spv::Capability::Float16), "Float16"},
    {uint32_t(spv::Capability::Float64), "Float64"},
    {uint32_t(spv::Capability::Int8), "Int8"},
    {uint32_t(spv::Capability::Int16), "Int16"},
    {uint32_t(spv::Capability::Int64), "Int64"},
    {uint32_t(spv::Capability::Int64Atomics), "Int64Atomics"},
    {uint32_t(spv::Capability::StorageBuffer8BitAccess), "StorageBuffer8BitAccess"},
    {uint32_t(spv::Capability::StorageBuffer16BitAccess), "StorageBuffer16BitAccess"},
    {uint32_t(spv::Capability::StoragePushConstant8), "StoragePushConstant8"},
    {uint32_t(spv::Capability::StoragePushConstant16), "StoragePushConstant16"},
    {uint32_t(spv::Capability::AtomicFloat32AddEXT), "AtomicFloat32AddEXT"},
    {uint32_t(spv::Capability::AtomicFloat32MinMaxEXT), "AtomicFloat32MinMaxEXT"},
    {uint32_t(spv::Capability::RoundingModeRTE), "RoundingModeRTE (the host adds it where the device has it)"},
    {uint32_t(spv::Capability::RoundingModeRTZ), "RoundingModeRTZ"},
    {uint32_t(spv::Capability::DenormPreserve), "DenormPreserve"},
    {uint32_t(spv::Capability::DenormFlushToZero), "DenormFlushToZero"},
    {uint32_t(spv::Capability::SignedZeroInfNanPreserve),
     "SignedZeroInfNanPreserve (the host adds it where the device has it)"},
    {5116, "BFloat16TypeKHR"},
    {6022, "CooperativeMatrixKHR"},
};

constexpr Row kRefusals[] = {
    {uint32_t(Op::OpUndef), "OpUndef: the value is undefined, initialise it"},
    {uint32_t(Op::OpTypeMatrix), "OpTypeMatrix: use vectors"},
    {uint32_t(Op::OpVectorTimesScalar), "OpVectorTimesScalar: write v * vec4(x)"},
    {uint32_t(Op::OpMatrixTimesScalar), "OpMatrixTimesScalar: write the products and sums out"},
    {uint32_t(Op::OpVectorTimesMatrix), "OpVectorTimesMatrix: write the products and sums out"},
    {uint32_t(Op::OpMatrixTimesVector), "OpMatrixTimesVector: write the products and sums out"},
    {uint32_t(Op::OpMatrixTimesMatrix), "OpMatrixTimesMatrix: write the products and sums out"},
    {uint32_t(Op::OpOuterProduct), "OpOuterProduct: write the products out"},
    {uint32_t(Op::OpTranspose), "OpTranspose: use vectors"},
    {uint32_t(Op::OpDot), "OpDot: write the products and the sum out"},
    {uint32_t(Op::OpFRem), "OpFRem: devices round it differently"},
    {uint32_t(Op::OpFMod), "OpFMod: devices round it differently"},
    {uint32_t(Op::OpFConvert), "OpFConvert: decode and encode other float types with integers"},
    {uint32_t(Op::OpQuantizeToF16), "OpQuantizeToF16: encode f16 with integers"},
    {uint32_t(Op::OpIsNan), "OpIsNan: test the bits"},
    {uint32_t(Op::OpIsInf), "OpIsInf: test the bits"},
    {uint32_t(Op::OpDPdx), "OpDPdx: no derivatives"},
    {uint32_t(Op::OpDPdy), "OpDPdy: no derivatives"},
    {uint32_t(Op::OpFwidth), "OpFwidth: no derivatives"},
    {uint32_t(Op::OpGroupNonUniformFAdd), "OpGroupNonUniformFAdd: its order is not defined"},
    {uint32_t(Op::OpGroupNonUniformFMul), "OpGroupNonUniformFMul: its order is not defined"},
    {uint32_t(Op::OpGroupNonUniformFMin), "OpGroupNonUniformFMin: use a comparison and a select"},
    {uint32_t(Op::OpGroupNonUniformFMax), "OpGroupNonUniformFMax: use a comparison and a select"},
    {uint32_t(Op::OpAtomicFAddEXT), "OpAtomicFAddEXT: no float atomics, their order is not defined"},
    {uint32_t(Op::OpAtomicFMinEXT), "OpAtomicFMinEXT: no float atomics"},
    {uint32_t(Op::OpAtomicFMaxEXT), "OpAtomicFMaxEXT: no float atomics"},
    {4456, "OpTypeCooperativeMatrixKHR: devices round it differently"},
    {4459, "OpCooperativeMatrixMulAddKHR: devices round it differently"},
};

}  // namespace

std::string capabilityName(uint32_t number) {
    for (const Row& row : kCapabilities)
        if (row.number == number) return std::string("the capability ") + row.text;
    return "the capability " + std::to_string(number);
}

std::string refusalOf(Op op) {
    for (const Row& row : kRefusals)
        if (row.number == uint32_t(op)) return row.text;
    return "the instruction with opcode " + std::to_string(uint32_t(op)) + ": it is not on the list of what is exact";
}

}  // namespace vkmoe::spirv
