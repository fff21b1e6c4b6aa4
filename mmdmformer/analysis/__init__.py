# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
