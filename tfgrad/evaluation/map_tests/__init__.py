"""Tests of saliency methods: is a map faithful to its network?"""
