# SPDX-License-Identifier: Apache-2.0
"""What is put back has to read as before: what counts as the same."""

from sriov_lb_tests.mutants.seeding import in_one_order


def test_the_order_in_which_a_hash_lists_elements_is_no_difference():
    one = "\t\tip6 saddr . tcp dport { 2001:db8::1 . 80, 2001:db8::2 . 80 } accept\n"
    other = "\t\tip6 saddr . tcp dport { 2001:db8::2 . 80, 2001:db8::1 . 80 } accept\n"
    assert one != other and in_one_order(one) == in_one_order(other)
    assert in_one_order(one) != in_one_order(one.replace("::2", "::3"))
    assert in_one_order(one) != in_one_order(one.replace("accept", "drop"))
    # A set that goes over several lines; and what a chain holds keeps its order.
    wrapped = "\tset s {\n\t\telements = { 192.0.2.2, 192.0.2.1,\n\t\t\t     192.0.2.3 }\n\t}\n"
    assert "{ 192.0.2.1, 192.0.2.2, 192.0.2.3 }" in in_one_order(wrapped)
    chain = "\tchain c {\n\t\ttcp dport 81 accept\n\t\ttcp dport 80 accept\n\t}\n"
    assert in_one_order(chain) == chain
