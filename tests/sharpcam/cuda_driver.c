/* NVIDIA's driver as far as SharpCam calls it, on the host's memory. It is compiled against CUDA's own header, which
   refuses what the driver is not: names, versions and arguments here are the real ones. */
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE 3
#define NEEDS_CONTEXT if (current != (CUcontext)&context) return CUDA_ERROR_INVALID_CONTEXT
#define REFUSE_UNLESS(what) if (!(what)) return CUDA_ERROR_INVALID_VALUE

static int context, lost;
static __thread CUcontext current;

void lose_the_device(void) { lost = 1; }

CUresult cuInit(unsigned int flags) { REFUSE_UNLESS(flags == 0); return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { REFUSE_UNLESS(ordinal == 0); *device = DEVICE; return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = 13020; return CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    REFUSE_UNLESS(device == DEVICE);
    strncpy(name, "Compiled GPU", size);
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute what, CUdevice device) {
    REFUSE_UNLESS(device == DEVICE);
    if (what == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) *value = 8;
    else if (what == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) *value = 9;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char **name) {
    REFUSE_UNLESS(error == CUDA_ERROR_INVALID_VALUE || error == CUDA_ERROR_LAUNCH_FAILED);
    *name = error == CUDA_ERROR_INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE" : "CUDA_ERROR_LAUNCH_FAILED";
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *found, CUdevice device) {
    REFUSE_UNLESS(device == DEVICE);
    *found = (CUcontext)&context;
    return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext chosen) {
    current = chosen;
    return lost ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
}
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
    NEEDS_CONTEXT;
    REFUSE_UNLESS(flags == CU_STREAM_NON_BLOCKING);
    *stream = malloc(16);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) { NEEDS_CONTEXT; free(stream); return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream stream) { NEEDS_CONTEXT; REFUSE_UNLESS(stream); return CUDA_SUCCESS; }
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
    NEEDS_CONTEXT;
    memcpy((void *)to, from, size);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream) {
    NEEDS_CONTEXT;
    memcpy(to, (void *)from, size);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    NEEDS_CONTEXT;
    memcpy((void *)to, (void *)from, size);
    return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void **found, size_t size, unsigned int flags) {
    NEEDS_CONTEXT;
    REFUSE_UNLESS(size && flags == CU_MEMHOSTALLOC_PORTABLE);
    *found = malloc(size);
    return CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *memory) { NEEDS_CONTEXT; free(memory); return CUDA_SUCCESS; }
CUresult cuMemGetInfo(size_t *free_bytes, size_t *total) {
    NEEDS_CONTEXT;
    *free_bytes = (size_t)18 << 30;
    *total = (size_t)24 << 30;
    return CUDA_SUCCESS;
}
