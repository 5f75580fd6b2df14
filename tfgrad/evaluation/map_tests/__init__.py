"""Tests of saliency methods: is a map faithful?"""
