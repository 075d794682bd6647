// CUDA's runtime and cuDNN as far as ONNX Runtime's CUDA provider calls them, on the host's memory: kernels compute
// nothing, and what is asked for is told on stderr, a line each. It is compiled against CUDA's own header. What it
// leaves out does nothing and succeeds (the test adds those names).
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

struct Copy {
    const void *from;
    std::string what;
};

static cudaStream_t recording;  // which stream is, if any
static std::vector<Copy> recorded;
static std::map<void *, std::vector<Copy>> graphs;
static std::atomic<bool> lost{false};

#define TELL(...) (fprintf(stderr, "cuda: " __VA_ARGS__), fputs(recording ? " while recording\n" : "\n", stderr))

template <class T> static cudaError_t make(T *made) {
    *made = (T)malloc(8);
    return cudaSuccess;
}

static cudaError_t allocate(void **memory, size_t size) {
    TELL("alloc %zu", size);
    return posix_memalign(memory, 256, size ? size : 1) ? cudaErrorMemoryAllocation : cudaSuccess;
}

extern "C" {
void lose_the_device() { lost = true; }

cudaError_t cudaGetDeviceCount(int *count) { *count = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { *device = 0; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = 13000; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { *version = 13000; return cudaSuccess; }
const char *cudaGetErrorName(cudaError_t) { return "cudaErrorMadeUp"; }
const char *cudaGetErrorString(cudaError_t) { return "the device is lost"; }
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = (size_t)24 << 30; return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "Made-up GPU");
    p->major = 8, p->minor = 9, p->multiProcessorCount = 128, p->warpSize = 32;
    p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 1536, p->regsPerBlock = 65536;
    p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = p->sharedMemPerMultiprocessor = 101376;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->totalGlobalMem = (size_t)24 << 30;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int) {
    *value = what == cudaDevAttrComputeCapabilityMajor ? 8 : what == cudaDevAttrComputeCapabilityMinor ? 9 : 1;
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *pointer) {
    memset(a, 0, sizeof *a);
    a->type = cudaMemoryTypeDevice, a->devicePointer = (void *)pointer;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t size) { return allocate(memory, size); }
cudaError_t cudaMallocHost(void **memory, size_t size) { return allocate(memory, size); }
cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned) { return allocate(memory, size); }
cudaError_t cudaFree(void *memory) { TELL("free"); free(memory); return cudaSuccess; }
cudaError_t cudaFreeHost(void *memory) { TELL("free"); free(memory); return cudaSuccess; }
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind) {
    TELL("copy %zu, waits", size);
    memcpy(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
    TELL("copy %zu on %zu", size, (size_t)stream);
    memcpy(to, from, size);
    if (recording && kind == cudaMemcpyHostToDevice) recorded.push_back({from, {(const char *)from, size}});
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return make(stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) { return make(stream); }
cudaError_t cudaEventCreate(cudaEvent_t *event) { return make(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return make(event); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    TELL("wait for %zu", (size_t)stream);
    return lost ? cudaErrorLaunchFailure : cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { TELL("wait for all"); return cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    TELL("record on %zu", (size_t)stream);
    recording = stream;
    recorded.clear();
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) { recording = nullptr; return make(graph); }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    *status = stream == recording ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t, unsigned long long) {
    make(made);
    graphs[*made] = recorded;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    TELL("replay %zu on %zu", (size_t)graph, (size_t)stream);
    for (auto &copy : graphs[graph])
        if (memcmp(copy.from, copy.what.data(), copy.what.size())) TELL("a recorded copy reads other bytes now");
    return lost ? cudaErrorLaunchFailure : cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    TELL("forget %zu", (size_t)graph);
    return lost ? cudaErrorLaunchFailure : cudaSuccess;
}

struct Launch {
    dim3 grid, block;
    size_t shared;
    void *stream;
};
static thread_local Launch next;

void **__cudaRegisterFatBinary(void *) { static void *handle; return &handle; }
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
    next = {grid, block, shared, stream};
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = next.grid, *block = next.block, *shared = next.shared, *(void **)stream = next.stream;
    return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, cudaStream_t stream) {
    TELL("kernel on %zu", (size_t)stream);
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void **, size_t, cudaStream_t stream) {
    TELL("kernel on %zu", (size_t)stream);
    return cudaSuccess;
}

// cuDNN: one engine for every convolution, which wants no workspace

static void *cudnn_stream;

size_t cudnnGetVersion() { return 91400; }
const char *cudnnGetErrorString(int) { return "none"; }
void cudnnGetLastErrorString(char *, size_t) {}
int cudnnCreate(void **handle) { return make(handle); }
int cudnnDestroy(void *) { return 0; }
int cudnnSetStream(void *, void *stream) { cudnn_stream = stream; return 0; }
int cudnnGetStream(void *, void **stream) { *stream = cudnn_stream; return 0; }
int cudnnBackendCreateDescriptor(int, void **descriptor) { return make(descriptor); }
int cudnnBackendDestroyDescriptor(void *) { return 0; }
int cudnnBackendFinalize(void *) { return 0; }
int cudnnBackendSetAttribute(void *, int, int, long long, const void *) { return 0; }
int cudnnBackendGetAttribute(void *, int, int type, long long wanted, long long *count, void *values) {
    const int int64 = 3, numerical_note = 11, behaviour_note = 19, int32 = 23;
    if (count) *count = type != numerical_note && type != behaviour_note;
    if (values && wanted > 0 && type == int64) *(long long *)values = 0;
    if (values && wanted > 0 && type == int32) *(int *)values = 0;
    return 0;
}
int cudnnBackendExecute(void *, void *, void *) { TELL("kernel on %zu", (size_t)cudnn_stream); return 0; }
}
