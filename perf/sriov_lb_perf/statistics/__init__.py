# SPDX-License-Identifier: Apache-2.0
"""What may be concluded from blocks of trials. Pure: takes numbers, knows no engine.

The unit of all of it is the *block* (A B B A or B A A B): single requests are correlated, and so
are trials a second apart, so neither may be counted as independent. For each block there is one
value per VIP, and its logarithm ratio ``d = log(b / a)``. On the d's:

* the effect is their Hodges-Lehmann pseudo-median, as a ratio ``exp(HL)``;
* its 95 % interval is scipy's percentile bootstrap over blocks, with the level widened for few
  blocks (Hesterberg 2015, section 5.3: without it five blocks cover 86 %, with it 94 %);
* a difference is claimed on Student's t over the d's, Holm-corrected over the run's metrics,
  *and* an interval that leaves out 1;
* equivalence is claimed by two one-sided t tests against the stated margin, Holm likewise;
* the minimum detectable effect says what this run could have seen at all.
"""
