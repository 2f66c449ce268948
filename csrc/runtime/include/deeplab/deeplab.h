/* SPDX-License-Identifier: Apache-2.0
 *
 * The C interface of the deeplab runtime: opens a model that deeplab-export wrote and segments images with it.
 *
 * Rules that hold for every later version of the same DEEPLAB_API_VERSION:
 *   - Functions are added, never changed. Structs only grow at their end and begin with `struct_size`, which the
 *     caller sets to sizeof(the struct). Fields that a caller's struct is too short for have their default, 0; bytes
 *     beyond the fields that the library knows must be 0, and are set to 0 in structs that the library fills.
 *   - No exception leaves a function. Those that can fail return a status; the message of a thread's last failure is
 *     deeplab_last_error(). On failure outputs are set to NULL.
 *   - Strings are UTF-8 and end with 0. Pointers into a handle live as long as the handle.
 *   - A segmenter may be used from any number of threads at once; closing it while a call runs is an error of the
 *     caller. A segmentation belongs to its caller and outlives its segmenter.
 */
#ifndef DEEPLAB_DEEPLAB_H
#define DEEPLAB_DEEPLAB_H

#include <stddef.h>
#include <stdint.h>

#define DEEPLAB_API_VERSION 1

#if defined(__GNUC__)
#define DEEPLAB_API __attribute__((visibility("default")))
#else
#define DEEPLAB_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t deeplab_status;
enum {
  DEEPLAB_OK = 0,
  DEEPLAB_INVALID_ARGUMENT = 1, /* an option or argument is not accepted, or contradicts the model */
  DEEPLAB_MODEL_FILE = 2,       /* missing, damaged, or not written by deeplab-export */
  DEEPLAB_BACKEND = 3,          /* not in this build, or cannot run this model or size on this machine */
  DEEPLAB_IMAGE = 4,            /* pixels, sizes or strides that are no image */
  DEEPLAB_OUT_OF_MEMORY = 5,
  DEEPLAB_INTERNAL = 6 /* a fault of the library */
};

/* Order of the colours in memory. */
enum { DEEPLAB_RGB = 0, DEEPLAB_BGR = 1 };

typedef struct deeplab_segmenter deeplab_segmenter;
typedef struct deeplab_segmentation deeplab_segmentation;

/* How a model is opened. Zeros (and NULL) are the defaults. */
typedef struct deeplab_options {
  size_t struct_size;
  const char* backend;      /* "auto" (default), "onnxruntime", "openvino" or "tensorrt" */
  const char* device;       /* "auto" (default), "cpu", what else the backend has */
  const char* mode;         /* "whole" or "slide"; default: the model's */
  int32_t window[2];        /* (height, width) of slide mode; default: the model's */
  int32_t window_stride[2]; /* (vertical, horizontal); default: the model's */
  int32_t window_batch;     /* windows that enter the network at once; default: 4, at most what the model allows */
  int32_t threads;          /* of the network on the CPU and of the kernels; default: all */
} deeplab_options;

/* An 8-bit image in the caller's memory, which is only read, and only during the call. */
typedef struct deeplab_image {
  size_t struct_size;
  const uint8_t* data; /* first pixel of the upper row */
  int64_t height, width;
  int64_t row_stride;   /* bytes from a row to the next, negative where rows lie bottom up; 0: width * pixel_stride */
  int32_t pixel_stride; /* bytes from a pixel to the next, 3 or more (4: RGBA, whose A is not used); 0: 3 */
  int32_t color;        /* DEEPLAB_RGB or DEEPLAB_BGR */
} deeplab_image;

/* Labels of an image. They are 1 byte each up to 256 classes, else 4 (int32_t). */
typedef struct deeplab_labels {
  size_t struct_size;
  int64_t height, width;
  int32_t bytes;       /* of a label: 1 or 4 */
  int32_t reserved;
  const void* labels;  /* [height, width], rows follow each other without gaps */
  const float* scores; /* [height, width], probability of each pixel's class, 0..1; NULL where not asked for */
} deeplab_labels;

/* What a segmenter runs. */
typedef struct deeplab_info {
  size_t struct_size;
  const char* config;    /* name of the model's config */
  const char* backend;   /* "onnxruntime", "openvino" or "tensorrt" */
  const char* device;    /* e.g. "cpu" */
  const char* precision; /* of the exported file: "fp32", "int8", .. */
  const char* mode;      /* "whole" or "slide" */
  int32_t num_classes;
  int32_t label_bytes;                    /* 1 or 4 */
  int64_t batch[3], height[3], width[3];  /* (least, typical, most) that the network was exported for */
} deeplab_info;

/* DEEPLAB_API_VERSION of the library, to compare with that of the header. */
DEEPLAB_API int32_t deeplab_api_version(void);
/* Version of deeplab-infer that the library was built from, e.g. "0.1.0". */
DEEPLAB_API const char* deeplab_version(void);
/* Names of the backends in this build, separated by commas, in order of preference. */
DEEPLAB_API const char* deeplab_backends(void);
/* Message of this thread's last failure, until its next one; "" before the first. */
DEEPLAB_API const char* deeplab_last_error(void);

/* Opens a .onnx file, an OpenVINO .xml (with its .bin) or a TensorRT .engine, .plan or .trt (with its .json).
 * options: NULL for the defaults. */
DEEPLAB_API deeplab_status deeplab_open(const char* path, const deeplab_options* options,
                                        deeplab_segmenter** segmenter);
/* Frees a segmenter; NULL does nothing. */
DEEPLAB_API void deeplab_close(deeplab_segmenter* segmenter);

DEEPLAB_API deeplab_status deeplab_get_info(const deeplab_segmenter* segmenter, deeplab_info* info);
/* Name of a class; NULL outside 0..num_classes - 1. */
DEEPLAB_API const char* deeplab_class_name(const deeplab_segmenter* segmenter, int32_t index);
/* Colour of a class in the palette, three bytes R, G, B; NULL outside 0..num_classes - 1. */
DEEPLAB_API const uint8_t* deeplab_class_color(const deeplab_segmenter* segmenter, int32_t index);

/* Segments an image, into labels at the image's size. scores: 1 for the probabilities of the labels too. */
DEEPLAB_API deeplab_status deeplab_segment(const deeplab_segmenter* segmenter, const deeplab_image* image,
                                           int32_t scores, deeplab_segmentation** segmentation);
DEEPLAB_API deeplab_status deeplab_get_labels(const deeplab_segmentation* segmentation, deeplab_labels* labels);
/* Frees a segmentation; NULL does nothing. */
DEEPLAB_API void deeplab_free(deeplab_segmentation* segmentation);

#ifdef __cplusplus
}
#endif

#endif /* DEEPLAB_DEEPLAB_H */
